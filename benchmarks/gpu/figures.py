"""Percentiles, and what a set of streamed answers amounts to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stream:
    """One streamed answer. Times are seconds of the machine's monotonic clock, which processes share."""

    sent: float
    first: float
    last: float
    tokens: int
    events: int
    cached: int = 0


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile, 0 to 100, between neighbours in proportion. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    at = (len(ordered) - 1) * q / 100
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summary(streams: Sequence[Stream]) -> dict[str, Any]:
    """Output tokens a second from the first request to the last token; TTFT and TPOT in milliseconds."""
    wall = max(s.last for s in streams) - min(s.sent for s in streams)
    tokens = sum(s.tokens for s in streams)
    first = [(s.first - s.sent) * 1e3 for s in streams]
    later = [(s.last - s.first) * 1e3 / (s.tokens - 1) for s in streams if s.tokens > 1]
    found: dict[str, Any] = {"requests": len(streams), "wall_s": round(wall, 3), "tok_s": round(tokens / wall, 1)}
    for name, values in (("ttft_ms", first), ("tpot_ms", later)):
        if values:
            found[name] = {f"p{q}": round(percentile(values, q), 3) for q in (50, 99)}
            found[name]["max"] = round(max(values), 3)
    found["tokens_per_event"] = round(tokens / max(1, sum(s.events for s in streams)), 3)
    found["cached_tokens"] = sum(s.cached for s in streams)
    return found


def worst_ratio(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The larger of p50 to p50 and p99 to p99 of two summaries' TPOT."""
    return round(max(one["tpot_ms"][q] / other["tpot_ms"][q] for q in ("p50", "p99")), 3)
