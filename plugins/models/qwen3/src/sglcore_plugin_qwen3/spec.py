"""What this plugin registers; imports no torch."""

from __future__ import annotations

from sglcore.contracts.models import ModelSpec

QWEN3 = ModelSpec(
    name="Qwen3ForCausalLM",
    factory="sglcore_plugin_qwen3.model:Qwen3ForCausalLM",
    summary="Qwen3, dense",
    needs=("sliding_window",),
    tensor_parallel=True,
    quantization=True,
    graph_safe=True,
    hidden_states=True,
)
QWEN3_MOE = ModelSpec(
    name="Qwen3MoeForCausalLM",
    factory="sglcore_plugin_qwen3.model:Qwen3MoeForCausalLM",
    summary="Qwen3, mixture of experts",
    needs=("sliding_window",),
    tensor_parallel=True,
    graph_safe=True,
    hidden_states=True,
)
