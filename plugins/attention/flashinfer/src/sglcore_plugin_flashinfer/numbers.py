"""What a step's rows are to FlashInfer, on the host: how many pages each has, and how full the last one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from sglcore.contracts.attention import AttentionBatch


class Variant(NamedTuple):
    """What a plan depends on beside the rows. window: positions that are seen, 0 for all; soft_cap: 0 for none."""

    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    dtype: torch.dtype
    kv_dtype: torch.dtype
    scale: float
    window: int
    soft_cap: float

    @property
    def plain(self) -> bool:
        """Causal and nothing else."""
        return not self.window and not self.soft_cap

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.heads // self.kv_heads

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that every `plan` takes under the same names. FlashInfer counts what lies before a query."""
        return {
            "window_left": self.window - 1 if self.window else -1,
            "logits_soft_cap": self.soft_cap,
            "q_data_type": self.dtype,
            "kv_data_type": self.kv_dtype,
            "sm_scale": self.scale,
        }


@dataclass(slots=True)
class Numbers:
    """Of one step and KV group; numpy int32. longest: most new tokens of a row. fresh: no row had any before."""

    q_indptr: np.ndarray  # [rows + 1], where each row's tokens begin
    indptr: np.ndarray  # [rows + 1], where each row's pages begin
    last: np.ndarray  # [rows], positions in the last page
    kv_lens: np.ndarray  # [rows]
    longest: int
    fresh: bool = False

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.last)

    @property
    def pages(self) -> int:
        """Of all rows."""
        return int(self.indptr[-1])


def numbers_of(batch: AttentionBatch) -> Numbers:
    """From the host copies of a batch's lengths; from the device, which waits for it, only where there are none."""
    counts = batch.q_lens.cpu().numpy() if batch.q_lens_host is None else batch.q_lens_host
    kv_lens = batch.kv_lens.cpu().numpy() if batch.kv_lens_host is None else batch.kv_lens_host
    pages = (kv_lens + (batch.page_size - 1)) // batch.page_size
    return Numbers(
        q_indptr=_from_zero(counts),
        indptr=_from_zero(pages),
        last=(kv_lens - np.maximum(pages - 1, 0) * batch.page_size).astype(np.int32),
        kv_lens=kv_lens.astype(np.int32),
        longest=batch.max_q_len,
        fresh=batch.max_q_len > 1 and bool((counts == kv_lens).all()),
    )


def _from_zero(counts: np.ndarray) -> np.ndarray:
    """int32 [len + 1]: the running sum."""
    sums = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=sums[1:])
    return sums
