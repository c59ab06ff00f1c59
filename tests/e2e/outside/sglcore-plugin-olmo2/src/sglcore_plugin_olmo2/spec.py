"""The entry point; imports no torch."""

from sglcore.contracts.models import ModelSpec

SPEC = ModelSpec(
    name="Olmo2ForCausalLM",
    factory="sglcore_plugin_olmo2.model:Olmo2",
    summary="OLMo 2: norms behind the blocks, and over all queries and keys",
    quantization=True,
)
