from __future__ import annotations

from typing import Any, ClassVar

from sglcore_plugin_llama.spec import LLAMA, MISTRAL

from sglcore.testing import InitConformance, ModelConformance

SMALL = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {**SMALL, "rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


class TestInit(InitConformance):
    distribution = "sglcore-plugin-llama"


class TestLlama(ModelConformance):
    spec = LLAMA
    model_type = "llama"
    configs: ClassVar[dict[str, dict[str, Any]]] = {
        "plain": SMALL,
        "tied": {**SMALL, "tie_word_embeddings": True},
        "biased": {**SMALL, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3},
        "wide heads": {**SMALL, "head_dim": 16, "num_key_value_heads": 6},
        "linear": rope("linear", factor=4.0),
        "dynamic": rope("dynamic", factor=4.0) | {"max_position_embeddings": 10},
        "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=16),
        "longrope": rope(
            "longrope",
            original_max_position_embeddings=16,
            short_factor=[1.0, 1.1, 1.2, 1.3],
            long_factor=[2.0, 3.0, 4.0, 5.0],
        ),
        "llama3": rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
        ),
    }


class TestMistral(ModelConformance):
    spec = MISTRAL
    model_type = "mistral"
    configs: ClassVar[dict[str, dict[str, Any]]] = {
        "window": {**SMALL, "sliding_window": 7},
        "no window": {**SMALL, "sliding_window": None},
    }
