"""Inverse frequencies of rotary position embeddings, for every scaling that Transformers knows.

Order of operations and float32 throughout are Transformers', so that the last bit, and with it greedy tokens, agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from sglcore.errors import ConfigError

# (parameters, rotary dim) -> (inverse frequencies float32 [dim / 2], factor on cos and sin)
Frequencies = tuple[torch.Tensor, float]


def rope_parameters(config: dict[str, Any], layer_type: str | None = None) -> dict[str, Any]:
    """One flat dict of rope settings from config.json, in its old form or the one with `rope_parameters`.

    layer_type: which entry to take where the config nests one dict per layer type. The result always has
    rope_type, rope_theta, partial_rotary_factor, max_position_embeddings and original_max_position_embeddings.
    """
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if layer_type is not None and isinstance(found.get(layer_type), dict):
        found = dict(found[layer_type])
    longest = config.get("max_position_embeddings") or 2048
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    found["rope_theta"] = float(found.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    if found.get("partial_rotary_factor") is None:
        found["partial_rotary_factor"] = config.get("partial_rotary_factor") or 1.0
    original = config.get("original_max_position_embeddings") or found.get("original_max_position_embeddings")
    found["original_max_position_embeddings"] = original or longest
    found["max_position_embeddings"] = longest
    return found


def exponents(dim: int, device: torch.device | None = None) -> torch.Tensor:
    """0, 2/dim, 4/dim ... float32 [dim / 2]."""
    return torch.arange(0, dim, 2, dtype=torch.int64, device=device).to(torch.float) / dim


def plain(p: dict[str, Any], dim: int) -> Frequencies:
    """The original embedding (Su et al., arXiv:2104.09864)."""
    return 1.0 / (p["rope_theta"] ** exponents(dim)), 1.0


def linear(p: dict[str, Any], dim: int) -> Frequencies:
    """Position interpolation (Chen et al., arXiv:2306.15595)."""
    return plain(p, dim)[0] / p["factor"], 1.0


def llama3(p: dict[str, Any], dim: int) -> Frequencies:
    """Llama 3.1: long waves are stretched by `factor`, short ones kept, those between blended."""
    inv, _ = plain(p, dim)
    factor, low, high, old = (
        p["factor"],
        p["low_freq_factor"],
        p["high_freq_factor"],
        p["original_max_position_embeddings"],
    )
    wavelength = 2 * math.pi / inv
    scaled = torch.where(wavelength > old / low, inv / factor, inv)
    blend = (old / wavelength - low) / (high - low)
    blended = (1 - blend) * scaled / factor + blend * scaled
    between = ~(wavelength < old / high) & ~(wavelength > old / low)
    return torch.where(between, blended, scaled), 1.0


def yarn(p: dict[str, Any], dim: int) -> Frequencies:
    """YaRN (Peng et al., arXiv:2309.00071): interpolate low frequencies, keep high ones, ramp between."""
    original = p["original_max_position_embeddings"]
    factor = p.get("factor") or p["max_position_embeddings"] / original
    base = p["rope_theta"]
    low = _correction(p.get("beta_fast") or 32, dim, base, original)
    high = _correction(p.get("beta_slow") or 1, dim, base, original)
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = torch.clamp((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    waves = base ** exponents(dim)
    keep = 1 - ramp
    return (1.0 / (factor * waves)) * (1 - keep) + (1.0 / waves) * keep, _yarn_attention(p, factor)


def _correction(rotations: float, dim: int, base: float, positions: int) -> float:
    """The dimension that turns `rotations` times over `positions`."""
    return (dim * math.log(positions / (rotations * 2 * math.pi))) / (2 * math.log(base))


def _yarn_attention(p: dict[str, Any], factor: float) -> float:
    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if p.get("mscale") and p.get("mscale_all_dim"):
        return mscale(p["mscale"]) / mscale(p["mscale_all_dim"])
    return mscale(1.0)


def longrope(p: dict[str, Any], dim: int, which: str = "short_factor") -> Frequencies:
    """LongRoPE (Ding et al., arXiv:2402.13753) with its `short_factor` or `long_factor` list."""
    original = p["original_max_position_embeddings"]
    factor = p.get("factor") or p["max_position_embeddings"] / original
    attention = p.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    stretch = torch.tensor(p[which], dtype=torch.float32)
    if stretch.numel() != dim // 2:
        raise ConfigError(
            f"rope_parameters.{which} has {stretch.numel()} entries; {dim} rotary dimensions need {dim // 2}.",
            remedy="Correct the list in config.json.",
        )
    return 1.0 / (stretch * p["rope_theta"] ** exponents(dim)), float(attention)


def dynamic(p: dict[str, Any], dim: int, lengths: torch.Tensor) -> torch.Tensor:
    """Dynamic NTK: the base grows with the sequence. lengths float32 [tokens] -> [tokens, dim / 2]."""
    factor, longest = p["factor"], p["max_position_embeddings"]
    grown = (factor * lengths.clamp(min=longest) / longest) - (factor - 1)
    base = p["rope_theta"] * grown ** (dim / (dim - 2))
    waves: torch.Tensor = base[:, None] ** exponents(dim, lengths.device)
    return 1.0 / waves


SCALINGS: dict[str, Callable[[dict[str, Any], int], Frequencies]] = {
    "default": plain,
    "linear": linear,
    "dynamic": plain,
    "yarn": yarn,
    "longrope": longrope,
    "llama3": llama3,
}
NEEDS: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def frequencies(p: dict[str, Any], dim: int) -> Frequencies:
    """Inverse frequencies for short sequences. Raises ConfigError for an unknown or incomplete scaling."""
    kind = p["rope_type"]
    if kind not in SCALINGS:
        raise ConfigError(
            f"config.json asks for rope_type {kind!r}, which is not one of {', '.join(SCALINGS)}.",
            remedy="Use `--model-impl transformers`, or a model plugin that knows it.",
        )
    if missing := [key for key in NEEDS.get(kind, ()) if p.get(key) is None]:
        raise ConfigError(
            f"rope_type {kind!r} needs {', '.join(missing)}, which config.json does not give.",
            remedy="Complete rope_parameters in config.json.",
        )
    return SCALINGS[kind](p, dim)
