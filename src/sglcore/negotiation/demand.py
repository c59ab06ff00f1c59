"""What is asked of the plugins: by flags and by the model's config.json. No torch: explaining reads it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglcore.config import EngineConfig

# Flags' spellings -> torch's names.
DTYPES = {
    "half": "float16",
    "float": "float32",
    "bf16": "bfloat16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}
STORED = ("float32", "bfloat16", "float16", "float64")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# What a model may need of attention -> the key of config.json whose null says that this one does not.
RULED_OUT = {"sliding_window": "sliding_window", "soft_cap": "attn_logit_softcapping"}


@dataclass(frozen=True, kw_only=True)
class Demand:
    """All that candidates are measured by. Empty strings and tuples: nothing was asked, or config.json does not say.

    device, attention, decode_attention, quantization: plugins named by flags. dtype, kv_dtype: torch's names, or
    "auto". stored: the checkpoint's type. unneeded: needs of the model family that config.json rules out. quant_method,
    bits, group_size: of the checkpoint. page_size: 0 for what the platform likes best. head_dim, latent_dim: values in
    a head, in a latent with its rotary part; 0 where config.json does not tell. features: capabilities that every
    chosen plugin must have, with the flag that asks.
    """

    architectures: tuple[str, ...] = ()
    model_impl: str = "auto"
    device: str = ""
    attention: str = ""
    decode_attention: str = ""
    quantization: str = ""
    dtype: str = "auto"
    kv_dtype: str = "auto"
    stored: str = "float32"
    page_size: int = 0
    head_dim: int = 0
    latent_dim: int = 0
    unneeded: tuple[str, ...] = ()
    moe: bool = False
    quant_method: str = ""
    bits: int = 0
    group_size: int = 0
    features: tuple[tuple[str, str], ...] = ()


def demand_of(config: EngineConfig, hf: dict[str, Any]) -> Demand:
    """The demand of a deployment; `hf` is the model's config.json with the overrides over it."""
    text = hf.get("text_config") or hf
    quantized = quantization_config(hf)
    return Demand(
        architectures=tuple(hf.get("architectures") or ()),
        model_impl=config.model_impl,
        device="" if config.device == "auto" else config.device,
        attention=config.prefill_attention_backend or config.attention_backend or "",
        decode_attention=config.decode_attention_backend or config.attention_backend or "",
        quantization=config.quantization or "",
        dtype=DTYPES.get(config.dtype, config.dtype),
        kv_dtype=DTYPES.get(config.kv_cache_dtype, config.kv_cache_dtype),
        stored=_stored(hf),
        page_size=config.page_size or 0,
        head_dim=_head_dim(text),
        latent_dim=_latent_dim(text),
        unneeded=tuple(need for need, key in RULED_OUT.items() if key in text and text[key] is None),
        moe=any(_number(text.get(key)) > 1 for key in EXPERTS),
        quant_method=str(quantized.get("quant_method") or ("unnamed" if quantized else "")),
        bits=_number(quantized.get("bits") or quantized.get("w_bit")),
        group_size=_number(quantized.get("group_size") or quantized.get("q_group_size")),
        features=(("tensor_parallel", f"--tp-size {config.tp_size}"),) if config.tp_size > 1 else (),
    )


def quantization_config(hf: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of quantized weights; {} for a plain checkpoint."""
    text = hf.get("text_config") or {}
    found = hf.get("quantization_config") or hf.get("compression_config") or text.get("quantization_config")
    return dict(found) if isinstance(found, dict) else {}


def _stored(hf: dict[str, Any]) -> str:
    name = str(hf.get("dtype") or hf.get("torch_dtype") or "float32").removeprefix("torch.")
    return name if name in STORED else "float32"


def _head_dim(text: dict[str, Any]) -> int:
    """The size of a head where config.json tells it without doubt; 0 where it does not."""
    if text.get("kv_lora_rank"):
        return 0  # what is cached there is no head
    hidden, heads = _number(text.get("hidden_size")), _number(text.get("num_attention_heads"))
    derived = hidden // heads if heads > 0 and hidden % heads == 0 else 0
    return _number(text.get("head_dim")) or derived


def _latent_dim(text: dict[str, Any]) -> int:
    """Values of a cached latent with its rotary part; 0 where the model has none."""
    rank = _number(text.get("kv_lora_rank"))
    return rank + _number(text.get("qk_rope_head_dim")) if rank else 0


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
