"""Traces: requests with their times, one JSON object a line; and what a step costs."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from sglcore.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)
Count = Annotated[int, Meta(ge=0, le=2**24)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
VOCAB = 2**15
MOST_REQUESTS = 10**6


class TraceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request.

    at: seconds from the start. prompt, output: tokens; of the prompt the first `prefix_tokens` are those of every other
    request with the same `prefix`. abort_at: seconds from the start at which its client leaves.
    """

    at: Seconds
    prompt: Annotated[int, Meta(ge=1, le=2**24)]
    output: Annotated[int, Meta(ge=1, le=2**24)]
    prefix: str = ""
    prefix_tokens: Count = 0
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    abort_at: Seconds | None = None

    def token_ids(self, number: int) -> np.ndarray:
        """int32 [prompt]: made-up ids, the shared part a function of the prefix's name alone."""
        shared = min(self.prefix_tokens, self.prompt) if self.prefix else 0
        common = np.random.default_rng(zlib.crc32(self.prefix.encode())).integers(1, VOCAB, shared, np.int32)
        own = np.random.default_rng(number).integers(1, VOCAB, self.prompt - shared, np.int32)
        return np.concatenate([common, own])


class CostModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds that a step takes: `step` + `prefill_token` per prompt token + `decode_row` per row + `kv_token` per
    token of context read. The defaults are of the order of an 8B model on a data-centre GPU; fit your own."""

    step: Seconds = 5e-3
    prefill_token: Seconds = 4e-5
    decode_row: Seconds = 2e-5
    kv_token: Seconds = 3e-8

    def of(self, prefill: int, decode: int, context: int) -> float:
        return self.step + self.prefill_token * prefill + self.decode_row * decode + self.kv_token * context


def read_trace(path: Path) -> list[TraceRequest]:
    """The requests in order of time. Raises ConfigError naming the file, the line and what is wrong."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"Cannot read the trace {path}: {error.strerror or error}.") from None
    found = [_read(line, TraceRequest, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not 0 < len(found) <= MOST_REQUESTS:
        raise ConfigError(f"{path} holds {len(found)} requests.", remedy=f"Give 1 to {MOST_REQUESTS}, one a line.")
    return sorted(found, key=lambda request: request.at)


def read_cost(text: str) -> CostModel:
    """A cost model from JSON. Raises ConfigError."""
    return _read(text.encode(), CostModel, "--cost")


def _read(data: bytes, kind: type[S], where: str) -> S:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        fields = ", ".join(kind.__struct_fields__)
        raise ConfigError(f"{where}: {error}.", remedy=f"It is a JSON object with {fields}.") from None


def example(count: int) -> Iterable[TraceRequest]:
    """A made-up trace: arrivals at random, half of the requests behind one shared prefix."""
    chance = np.random.default_rng(0)
    now = 0.0
    for number in range(count):
        now += float(chance.exponential(0.05))
        shared = {"prefix": "system", "prefix_tokens": 400} if number % 2 else {}
        prompt = int(chance.integers(420, 900))
        yield TraceRequest(round(now, 4), prompt, int(chance.integers(20, 200)), **shared)  # type: ignore[arg-type]
