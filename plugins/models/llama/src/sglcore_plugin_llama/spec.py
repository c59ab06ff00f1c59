"""What this plugin registers; imports no torch."""

from __future__ import annotations

from sglcore.contracts.models import ModelSpec

LLAMA = ModelSpec(
    name="LlamaForCausalLM",
    factory="sglcore_plugin_llama.model:LlamaForCausalLM",
    summary="Llama 2 and 3.x, SmolLM and other models of that shape",
    tensor_parallel=True,
    quantization=True,
    graph_safe=True,
    hidden_states=True,
)
MISTRAL = ModelSpec(
    name="MistralForCausalLM",
    factory="sglcore_plugin_llama.model:MistralForCausalLM",
    summary="Mistral: Llama with an optional sliding window",
    needs=("sliding_window",),
    tensor_parallel=True,
    quantization=True,
    graph_safe=True,
    hidden_states=True,
)
