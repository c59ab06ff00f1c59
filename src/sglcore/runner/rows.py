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
    from sglcore.runner.transfers import Transfers


class DeviceRows:
    """Per row: page table of each group, last sampled token, and how to sample.

    One row more than there are seats: padding is computed there. Its pages are `spare`, the page of the pool that
    nobody is given.
    """

    def __init__(
        self,
        rows: int,
        pages_per_row: int,
        groups: tuple[KVGroup, ...],
        device: torch.device,
        transfers: Transfers,
        spare: int = 0,
    ) -> None:
        self.device = device
        self.size = rows
        self.spare = spare
        self.pages_per_row = pages_per_row
        self.transfers = transfers
        self.pages = [torch.full((rows + 1, pages_per_row), spare, dtype=torch.int32, device=device) for _ in groups]
        self.last = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        # read where rows are sorted by how they draw; host copies, small
        self.temperature = np.zeros(rows + 1, dtype=np.float32)
        self.top_p = np.ones(rows + 1, dtype=np.float32)
        self.top_k = np.zeros(rows + 1, dtype=np.int64)
        self.min_p = np.zeros(rows + 1, dtype=np.float32)
        self.seed = np.zeros(rows + 1, dtype=np.int64)
        self.logprobs = np.full(rows + 1, -1, dtype=np.int64)
        self.logprob_ids: dict[int, tuple[int, ...]] = {}  # of the rows that asked for some
        # read by the fused sampler: the same numbers where the device finds them (on a CPU, the same memory)
        self.heat, self.floor, self.seeds = (
            torch.from_numpy(values).to(device) for values in (self.temperature, self.min_p, self.seed)
        )

    def apply(self, batch: Batch) -> None:
        """Take in who entered and which pages were added. Rows that left need no work: their seats are overwritten."""
        for entry in batch.entered:
            self._enter(entry)
        if self.transfers.shared:
            self._add_pages_here(batch)
        elif batch.entered or batch.new_pages:
            self._send(batch)

    def places(self, batch: Batch, group: int) -> tuple[np.ndarray, np.ndarray]:
        """(index into a group's flattened table int64 [n], page int32 [n]) of all pages that the batch adds."""
        index, page = [], []
        for entry in batch.entered:
            # a window group may lack early pages (-1); they are behind the window and never read
            page.append(np.maximum(entry.pages[group], 0))
            index.append(entry.row * self.pages_per_row + np.arange(len(entry.pages[group])))
        if batch.new_pages:
            row, position, number = batch.new_pages[group]
            index.append(row.astype(np.int64) * self.pages_per_row + position)
            page.append(number)
        if not index:
            return np.empty(0, np.int64), np.empty(0, np.int32)
        return np.concatenate(index).astype(np.int64), np.concatenate(page).astype(np.int32)

    def _add_pages_here(self, batch: Batch) -> None:
        """The same memory through numpy, whose indexing is far lighter."""
        for g, table in enumerate(self.pages):
            flat = table.view(-1).numpy()
            for entry in batch.entered:
                start = entry.row * self.pages_per_row
                flat[start : start + len(entry.pages[g])] = np.maximum(entry.pages[g], 0)
            if batch.new_pages:
                row, index, page = batch.new_pages[g]
                table.numpy()[row, index] = page

    def _send(self, batch: Batch) -> None:
        arrays = [array for g in range(len(self.pages)) for array in self.places(batch, g)]
        rows = np.array([entry.row for entry in batch.entered], dtype=np.int64)
        drawing = (self.temperature[rows], self.min_p[rows], self.seed[rows]) if len(rows) else ()
        sent = self.transfers.send(*arrays, rows, *drawing)
        for g, table in enumerate(self.pages):
            if len(arrays[2 * g]):
                table.view(-1).index_copy_(0, sent[2 * g], sent[2 * g + 1])
        if len(rows):
            where, *values = sent[2 * len(self.pages) :]
            for own, value in zip((self.heat, self.floor, self.seeds), values, strict=True):
                own.index_copy_(0, where, value)

    def _enter(self, entry: RowEntry) -> None:
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


def _mix_branch(seed: int, branch: int) -> int:
    """One 63-bit number per (seed, branch); branch 0 keeps the seed."""
    return (seed + branch * 0x9E3779B97F4A7C15) & (2**63 - 1)
