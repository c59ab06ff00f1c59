"""Decoding tensors on all cores, a few ahead of the consumer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sglcore_plugin_gguf.dequant import decode
from sglcore_plugin_gguf.reader import TensorEntry

PART_ELEMENTS = 1 << 21  # one thread's share of a large tensor
AHEAD_ELEMENTS = 1 << 24  # decoded or being decoded beyond the tensor handed over: 64 MB
MAX_THREADS = 8

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Wanted:
    """One tensor to hand over.

    heads: where not 0, the rows of each head are stored as (half, pair) and are wanted as (pair, half):
        converters to GGUF interleave the two rotary halves of llama's q and k rows.
    shift: added to every element; converters of gemma store 1 + weight for norms.
    """

    name: str
    entry: TensorEntry
    heads: int = 0
    shift: float = 0.0


@dataclass(frozen=True)
class _Job:
    name: str
    out: Floats
    parts: list[Future[None]]

    def finish(self) -> tuple[str, Floats]:
        for part in self.parts:
            part.result()
        return self.name, self.out


def decoded(data: memoryview, tensors: Iterable[Wanted]) -> Iterator[tuple[str, Floats]]:
    """(name, freshly decoded float32 array) in the order given.

    data: the mapped file. Memory: the array handed over plus AHEAD_ELEMENTS, or one tensor where that is larger.
    """
    pool = ThreadPoolExecutor(_threads(), thread_name_prefix="gguf")
    jobs: deque[_Job] = deque()
    try:
        for wanted in tensors:
            jobs.append(_submit(pool, data, wanted))
            while sum(job.out.size for job in list(jobs)[1:]) > AHEAD_ELEMENTS:
                yield jobs.popleft().finish()
        while jobs:
            yield jobs.popleft().finish()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _threads() -> int:
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))


def _submit(pool: ThreadPoolExecutor, data: memoryview, wanted: Wanted) -> _Job:
    entry = wanted.entry
    raw = np.frombuffer(data, np.uint8, entry.size, entry.start)
    out = np.empty(entry.shape, np.float32)
    units: NDArray[np.uint8]
    if wanted.heads:
        half = entry.shape[0] // wanted.heads // 2
        units = raw.reshape(wanted.heads, half, 2, -1)  # [heads, half, pair, row bytes]
    else:
        units = raw.reshape(-1, entry.kind.size)  # [blocks, block bytes]
    flat = out.reshape(len(units), -1)
    step = max(1, PART_ELEMENTS * len(units) // out.size)
    starts = range(0, len(units), step)
    parts = [pool.submit(_decode_part, wanted, units[at : at + step], flat[at : at + step]) for at in starts]
    return _Job(wanted.name, out, parts)


def _decode_part(wanted: Wanted, units: NDArray[np.uint8], out: Floats) -> None:
    if wanted.heads:
        units = np.ascontiguousarray(units.swapaxes(1, 2))  # rows of whole blocks move before they are decoded
    decode(wanted.entry.kind, units.reshape(-1), out.reshape(-1))
    if wanted.shift:
        out += np.float32(wanted.shift)
