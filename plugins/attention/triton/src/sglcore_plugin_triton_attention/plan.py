"""What a step's attention needs beside q and the cache, from numbers that the host knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sglcore.contracts.attention import AttentionBatch


@dataclass(slots=True)
class GroupPlan:
    """One KV group's step. singles: leading rows with one new token each, whose tokens are the first of the step.

    longest: new tokens of the longest other row, 0 where there is none.
    """

    batch: AttentionBatch
    table: torch.Tensor  # int32 [rows, pages], dense within a row
    singles: int
    longest: int
    counts: np.ndarray | None  # int32 [rows]: new tokens; None where all rows are singles
    lengths: np.ndarray | None
    _blocks: dict[int, torch.Tensor] = field(default_factory=dict)

    def blocks(self, size: int) -> torch.Tensor:
        """int32 [blocks, 4] on the device: the rows past the singles in blocks of `size` tokens, most work first.

        Each is (row, the row's first token in the step, the block's first token in the row, 0). Kept for the step.
        """
        found = self._blocks.get(size)
        if found is None:
            assert self.counts is not None and self.lengths is not None
            array = block_map(self.counts, self.lengths, self.singles, size)
            found = self._blocks[size] = _upload(array, self.batch.q_lens.device)
        return found


def plan_group(batch: AttentionBatch) -> GroupPlan:
    """Read nothing from the device where the host knows the lengths, or where each row has one token."""
    rows = batch.q_lens.shape[0]
    table = batch.page_table if batch.page_table.stride(1) == 1 else batch.page_table.contiguous()
    if batch.max_q_len == 1 and batch.slots.shape[0] == rows:
        return GroupPlan(batch, table, rows, 0, None, None)
    counts = _host(batch.q_lens, batch.q_lens_host)
    lengths = _host(batch.kv_lens, batch.kv_lens_host)
    others = np.flatnonzero(counts != 1)
    singles = int(others[0]) if len(others) else rows
    longest = int(counts[singles:].max()) if singles < rows else 0
    return GroupPlan(batch, table, singles, longest, counts, lengths)


def block_map(counts: np.ndarray, lengths: np.ndarray, singles: int, size: int) -> np.ndarray:
    """The int32 [blocks, 4] of `GroupPlan.blocks`, sorted so that the blocks that see most keys start first."""
    blocks = -(-counts.astype(np.int64) // size)
    blocks[:singles] = 0
    ends = np.cumsum(blocks)
    row = np.repeat(np.arange(len(counts)), blocks)
    first = (np.arange(ends[-1]) - np.repeat(ends - blocks, blocks)) * size
    seen = (lengths - counts)[row] + first
    starts = np.cumsum(counts, dtype=np.int64) - counts
    found = np.stack((row, starts[row], first, np.zeros_like(row)), 1).astype(np.int32)
    return np.ascontiguousarray(found[np.argsort(-seen, kind="stable")])


def _host(tensor: torch.Tensor, known: Any) -> np.ndarray:
    """The host's copy, or the device's numbers, for which one must wait."""
    return np.asarray(tensor.cpu().numpy() if known is None else known)


def _upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on the device that does not wait for it; the pinned memory is given back when the copy is done."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
