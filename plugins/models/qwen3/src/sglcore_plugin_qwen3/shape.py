"""A Qwen3's dimensions, read from config.json with Transformers' defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglcore.errors import ConfigError

DENSE_HEAD_DIM = 128  # of a dense config that gives none
WINDOW = 4096  # of a config that turns sliding windows on and gives no size
DENSE_WINDOW_FROM = 28  # first layer with a window, in a dense config that turns them on and does not say
NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True, slots=True)
class Qwen3Shape:
    """windows: by layer; 0 means that every position is seen."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    bias: bool
    tied: bool
    windows: tuple[int, ...]

    @classmethod
    def dense(cls, config: dict[str, Any]) -> Qwen3Shape:
        """From a Qwen3's config.json. Raises ConfigError for a missing size or what this model does not compute."""
        require(config, NEEDED)
        kinds = config.get("layer_types")
        if kinds is None:
            first = config.get("max_window_layers", DENSE_WINDOW_FROM)
            slides = [layer >= first for layer in range(config["num_hidden_layers"])]
        else:
            slides = [_slides(kind) for kind in kinds]
        return cls._read(config, config.get("head_dim") or DENSE_HEAD_DIM, slides)

    @classmethod
    def moe(cls, config: dict[str, Any]) -> Qwen3Shape:
        """From the config.json of a Qwen3 mixture of experts; raises as `dense` does."""
        require(config, NEEDED)
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        return cls._read(config, head_dim, [True] * config["num_hidden_layers"])

    @classmethod
    def _read(cls, config: dict[str, Any], head_dim: int, slides: list[bool]) -> Qwen3Shape:
        if (act := config.get("hidden_act", "silu")) not in ("silu", "swish"):
            raise ConfigError(
                f"config.json asks for hidden_act {act!r}; this model computes silu.",
                remedy="Use `--model-impl transformers`.",
            )
        vocab, hidden, intermediate, layers, heads = (config[key] for key in NEEDED)
        if len(slides) != layers:
            raise ConfigError(
                f"config.json names {len(slides)} layer_types for {layers} layers.",
                remedy="Use the config.json the model came with.",
            )
        kv_heads = config.get("num_key_value_heads") or heads
        if heads % kv_heads:
            raise ConfigError(
                f"config.json gives {heads} attention heads and {kv_heads} key/value heads, which does not divide.",
                remedy="Use the config.json the model came with.",
            )
        window = int(config.get("sliding_window", WINDOW) or 0) if config.get("use_sliding_window") else 0
        return cls(
            vocab=vocab,
            hidden=hidden,
            intermediate=intermediate,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            eps=float(config.get("rms_norm_eps", 1e-6)),
            bias=bool(config.get("attention_bias")),
            tied=bool(config.get("tie_word_embeddings")),
            windows=tuple(window if on else 0 for on in slides),
        )


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """sparse: by layer, whether a mixture of experts stands there. k: experts a token."""

    experts: int
    k: int
    inner: int
    normalise: bool
    sparse: tuple[bool, ...]

    @classmethod
    def read(cls, config: dict[str, Any]) -> ExpertShape:
        """From config.json. Raises ConfigError for a missing size."""
        experts = config.get("num_experts", config.get("num_local_experts"))
        require({**config, "num_experts": experts}, ("num_experts", "num_experts_per_tok", "moe_intermediate_size"))
        step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
        return cls(
            experts=int(experts or 0),
            k=config["num_experts_per_tok"],
            inner=config["moe_intermediate_size"],
            normalise=bool(config.get("norm_topk_prob")),
            sparse=tuple(
                layer not in dense and (layer + 1) % step == 0 for layer in range(config["num_hidden_layers"])
            ),
        )


def require(config: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Raises ConfigError unless each is a positive whole number."""
    if missing := [key for key in keys if not (isinstance(config.get(key), int) and config[key] > 0)]:
        raise ConfigError(
            f"config.json gives no positive {', '.join(missing)}.",
            remedy="Use the config.json the model came with.",
        )


def _slides(kind: str) -> bool:
    if kind not in ("full_attention", "sliding_attention"):
        raise ConfigError(
            f"config.json asks for a layer of type {kind!r}; this model has full_attention and sliding_attention.",
            remedy="Use `--model-impl transformers`.",
        )
    return kind == "sliding_attention"
