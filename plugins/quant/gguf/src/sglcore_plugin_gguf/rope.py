"""Rotary scaling out of GGUF metadata, in the words of a Hugging Face config.json."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sglcore.errors import ConfigError
from sglcore_plugin_gguf.metadata import Metadata
from sglcore_plugin_gguf.reader import Header

FREQS_TENSOR = "rope_freqs.weight"
_TOLERANCE = 1e-3


def rope_scaling(header: Header, meta: Metadata, theta: float, head_dim: int) -> dict[str, Any] | None:
    """`rope_scaling` of the config, or None. Raises ConfigError for a scaling it cannot express."""
    if header.tensor(FREQS_TENSOR) is not None:
        return _llama3(header, theta, head_dim)
    kind = meta.text("{arch}.rope.scaling.type", "none")
    if kind == "none":
        return None
    factor = meta.number("{arch}.rope.scaling.factor", 1.0)
    if kind == "linear":
        return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(meta, factor)
    raise ConfigError(
        f"GGUF file {header.path} asks for rope scaling {kind!r}; none, linear, yarn and llama3 are known.",
        remedy="Use the model's safetensors files instead.",
    )


def _yarn(meta: Metadata, factor: float) -> dict[str, Any]:
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    if meta.has("{arch}.rope.scaling.original_context_length"):
        scaling["original_max_position_embeddings"] = meta.count("{arch}.rope.scaling.original_context_length")
    for word in ("beta_fast", "beta_slow"):
        if meta.has(f"{{arch}}.rope.scaling.yarn_{word}"):
            scaling[word] = meta.number(f"{{arch}}.rope.scaling.yarn_{word}")
    return scaling


def _llama3(header: Header, theta: float, head_dim: int) -> dict[str, Any]:
    """Recover llama 3.1's four numbers from the divisor of each frequency that the file stores.

    A divisor is 1 for short waves, `factor` for long ones; in between 1/divisor is linear in the
    frequency. Scaling low_freq_factor, high_freq_factor and the original length together changes
    nothing, so low_freq_factor is 1 without loss.
    """
    divisors = _divisors(header, head_dim)
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)  # radians a position
    factor = float(divisors.max())
    between = (divisors > 1 + _TOLERANCE) & (divisors < factor * (1 - _TOLERANCE))
    if factor <= 1 or between.sum() < 2:
        raise _inexpressible(header)
    smooth = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
    slope, offset = np.polyfit(frequencies[between] / (2 * math.pi), smooth, 1)
    high = 1 - 1 / offset  # offset = -low / (high - low) with low = 1
    original = slope * (high - 1)
    scaling = {
        "rope_type": "llama3",
        "factor": round(factor, 4),
        "low_freq_factor": 1.0,
        "high_freq_factor": round(float(high), 3),
        "original_max_position_embeddings": round(float(original)),
    }
    if not _reproduces(scaling, frequencies, divisors):
        raise _inexpressible(header)
    return scaling


def _divisors(header: Header, head_dim: int) -> NDArray[np.float64]:
    entry = header.tensor(FREQS_TENSOR)
    if entry is None or entry.kind.name != "F32" or entry.shape != (head_dim // 2,):
        raise _inexpressible(header)
    divisors = np.frombuffer(header.data, np.float32, head_dim // 2, entry.start).astype(np.float64)
    if not (np.isfinite(divisors).all() and (divisors >= 1 - _TOLERANCE).all()):
        raise _inexpressible(header)
    return divisors


def _reproduces(scaling: dict[str, Any], frequencies: NDArray[np.float64], divisors: NDArray[np.float64]) -> bool:
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if high <= low or scaling["original_max_position_embeddings"] < 1:
        return False
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    return bool(np.allclose(expected, divisors, rtol=_TOLERANCE))


def _inexpressible(header: Header) -> ConfigError:
    return ConfigError(
        f"GGUF file {header.path}: the frequencies in tensor {FREQS_TENSOR!r} are not a llama3 rope scaling.",
        remedy="Use the model's safetensors files instead.",
    )
