"""MemoryPlan: what a device's memory is for, measured before the KV pool takes the rest.

The largest steps that may come are run over a small pool: a full chunk of prompt, and every row sampling at once with
the costliest sampling and logprobs. What they needed beside the weights is kept free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sglcore.batch import NO_TOKENS, Batch, RowEntry
from sglcore.contracts.platforms import DeviceMemory, MeasuredPlatform
from sglcore.errors import ConfigError
from sglcore.request import SamplingParams

if TYPE_CHECKING:
    from sglcore.runner.runner import ModelRunner

GIB = 2**30
SLACK = 0.01  # of the device: fragments, and what libraries take for themselves later
GRAPH_BYTES = 6 * 2**20  # of a captured step beside the tensors in it, which all share
COSTLY = SamplingParams(temperature=1.0, top_p=0.9, max_new_tokens=2)
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=2)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the device. other: drivers, libraries and other processes."""

    total: int
    other: int
    weights: int
    activations: int
    graphs: int
    slack: int
    kv: int

    def lines(self) -> list[str]:
        """A table to read."""
        parts = ("weights", "kv", "activations", "graphs", "other", "slack")
        shown = [f"{name:<12}{getattr(self, name) / GIB:8.2f} GiB" for name in parts]
        return [*shown, f"{'total':<12}{self.total / GIB:8.2f} GiB"]


def measure(
    platform: MeasuredPlatform, runner: ModelRunner, chunk: int, context: int, page_size: int, graphs: int
) -> tuple[int, int]:
    """(bytes of the largest step's activations, of `graphs` captured steps). `runner` has a pool of pages for it."""
    before = platform.memory().used
    rows = runner.rows.size

    def peak(batches: Iterable[Batch]) -> int:
        platform.reset_peak()
        for batch in batches:
            runner.forward(batch)
            runner.sample(batch).wait()
        platform.synchronize()
        return platform.memory().peak - before

    groups = len(runner.rows.pages)
    greedy = peak([_step(1, [1] * rows, page_size, groups, GREEDY)])
    prompt = [context - 1] * (chunk // (context - 1)) + ([chunk % (context - 1)] if chunk % (context - 1) else [])
    every_row = _step(2, [1] * rows, page_size, groups, COSTLY, logprobs=20)
    costly = peak([every_row, _step(3, prompt[:rows], page_size, groups, COSTLY)])
    return costly, (greedy + graphs * GRAPH_BYTES if graphs else 0)


def pages_to_measure(rows: int, chunk: int, page_size: int) -> int:
    """How many pages the pool needs for `measure`."""
    return max(rows, -(-chunk // page_size) + rows)


def plan(now: DeviceMemory, activations: int, graphs: int, share: float | None) -> MemoryPlan:
    """The plan for a device that holds the weights and nothing else. `share`: most of it for weights and KV together.

    Raises ConfigError where nothing is left for the pool.
    """
    other = max(now.total - now.free - now.reserved, 0)
    slack = int(now.total * SLACK)
    room = now.total - other - now.used - activations - graphs - slack
    kv = room if share is None else int(now.total * share) - now.used - other
    if kv <= 0:
        raise ConfigError(
            f"The model and its largest step need {(now.total - room) / GIB:.1f} GiB, the device has "
            f"{now.total / GIB:.1f} GiB: {-room / GIB:.1f} GiB are missing before the first token of KV cache.",
            remedy="Lower --chunked-prefill-size or --max-running-requests, quantize the model, or spread it with "
            "--tp-size.",
        )
    return MemoryPlan(now.total, other, now.used, activations, graphs, slack, kv)


def _step(
    serial: int, counts: list[int], page_size: int, groups: int, sampling: SamplingParams, logprobs: int = -1
) -> Batch:
    """Prompts of these lengths, each on pages of its own."""
    rows, lens = np.arange(len(counts), dtype=np.int32), np.array(counts, dtype=np.int32)
    first, pages = 0, []
    for count in counts:
        need = -(-count // page_size)
        pages.append(np.arange(first, first + need, dtype=np.int32))
        first += need
    entered = [
        RowEntry(int(row), sampling, 0, 0, (own,) * groups, logprobs, prompt=count, tokens=NO_TOKENS)
        for row, count, own in zip(rows, counts, pages, strict=True)
    ]
    none = np.zeros(len(counts), dtype=np.int32)
    known = np.zeros(int(lens.sum()), dtype=np.int32)
    flags = np.zeros(len(counts), dtype=bool)
    return Batch(serial, rows, none, lens, flags, ~flags, known, entered)
