"""DeviceRows: the runner's own table of seated rows, kept true by the deltas in each Batch.

Lives on the device thread. What the next step needs of the last one (the sampled token) is written
here by the sampler and read here by the inputs, so the host never has to know it in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sglcore.batch import Batch, RowEntry

if TYPE_CHECKING:
    from sglcore.contracts.models import KVGroup


class DeviceRows:
    """Per row: page table of each group, last sampled token, and how to sample."""

    def __init__(self, rows: int, pages_per_row: int, groups: tuple[KVGroup, ...], device: torch.device) -> None:
        self.device = device
        self.pages = [torch.zeros((rows, pages_per_row), dtype=torch.int32, device=device) for _ in groups]
        self.last = torch.zeros(rows, dtype=torch.int64, device=device)
        # read by the sampler, gathered by row; host copies, small
        self.temperature = np.zeros(rows, dtype=np.float32)
        self.top_p = np.ones(rows, dtype=np.float32)
        self.top_k = np.zeros(rows, dtype=np.int64)
        self.min_p = np.zeros(rows, dtype=np.float32)
        self.seed = np.zeros(rows, dtype=np.int64)
        self.logprobs = np.full(rows, -1, dtype=np.int64)
        self.logprob_ids: dict[int, tuple[int, ...]] = {}  # of the rows that asked for some

    def apply(self, batch: Batch) -> None:
        """Take in who entered and which pages were added. Rows that left need no work: their seats are overwritten."""
        for entry in batch.entered:
            self._enter(entry)
        for g, (row, index, page) in enumerate(batch.new_pages):
            if self.device.type == "cpu":  # the same memory through numpy, whose indexing is far lighter
                self.pages[g].numpy()[row, index] = page
            else:
                self.pages[g][self._to(row), self._to(index)] = self._to(page)

    def _enter(self, entry: RowEntry) -> None:
        for g, pages in enumerate(entry.pages):
            if len(pages):
                # a window group may lack early pages (-1); they are behind the window and never read
                self.pages[g][entry.row, : len(pages)] = self._to(np.maximum(pages, 0))
        sampling = entry.sampling
        self.temperature[entry.row] = 0.0 if sampling.greedy else sampling.temperature
        self.top_p[entry.row] = sampling.top_p
        self.top_k[entry.row] = max(sampling.top_k, 0)
        self.min_p[entry.row] = sampling.min_p
        self.seed[entry.row] = _mix_branch(entry.seed, entry.branch)
        self.logprobs[entry.row] = entry.logprobs
        self.logprob_ids.pop(entry.row, None)
        if entry.logprob_ids:
            self.logprob_ids[entry.row] = entry.logprob_ids

    def _to(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)


def _mix_branch(seed: int, branch: int) -> int:
    """One 63-bit number per (seed, branch); branch 0 keeps the seed."""
    return (seed + branch * 0x9E3779B97F4A7C15) & (2**63 - 1)
