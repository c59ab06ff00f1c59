"""A Llama's dimensions, read from config.json with Transformers' defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglcore.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """window 0 means that every position is seen."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    attention_bias: bool
    mlp_bias: bool
    tied: bool
    window: int

    @classmethod
    def read(cls, config: dict[str, Any], default_window: int | None = None) -> LlamaShape:
        """From config.json. Raises ConfigError for a missing size or what this model does not compute.

        default_window: sliding window where the config has no such key; None: the key means nothing here.
        """
        needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        if missing := [key for key in needed if not _positive(config.get(key))]:
            raise ConfigError(
                f"config.json gives no positive {', '.join(missing)}.",
                remedy="Use the config.json the model came with.",
            )
        if (act := config.get("hidden_act", "silu")) not in ("silu", "swish"):
            raise ConfigError(
                f"config.json asks for hidden_act {act!r}; this model computes silu.",
                remedy="Use `--model-impl transformers`.",
            )
        vocab, hidden, intermediate, layers, heads = (config[key] for key in needed)
        kv_heads = config.get("num_key_value_heads") or heads
        if heads % kv_heads:
            raise ConfigError(
                f"config.json gives {heads} attention heads and {kv_heads} key/value heads, which does not divide.",
                remedy="Use the config.json the model came with.",
            )
        return cls(
            vocab=vocab,
            hidden=hidden,
            intermediate=intermediate,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=config.get("head_dim") or hidden // heads,
            eps=float(config.get("rms_norm_eps", 1e-6)),
            attention_bias=bool(config.get("attention_bias")),
            mlp_bias=bool(config.get("mlp_bias")),
            tied=bool(config.get("tie_word_embeddings")),
            window=0 if default_window is None else int(config.get("sliding_window", default_window) or 0),
        )


def _positive(value: Any) -> bool:
    return isinstance(value, int) and value > 0
