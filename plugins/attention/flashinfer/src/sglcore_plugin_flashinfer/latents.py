"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) by FlashInfer's wrapper for it, in the absorbed form."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from sglcore.errors import PluginError
from sglcore_plugin_flashinfer import device as devices
from sglcore_plugin_flashinfer.numbers import Numbers
from sglcore_plugin_flashinfer.wrappers import Staged

TILE = 64  # queries times heads of one multiprocessor; a pair of them takes twice as many where rows have more
MOST_WORK = 16384  # tiles, cut at their keys, that a plan has room for (`attention/scheduler.cuh`); it does not check


class LatentVariant(NamedTuple):
    """What a plan depends on beside the rows."""

    heads: int
    rank: int
    rope_dim: int
    page_size: int
    dtype: torch.dtype
    kv_dtype: torch.dtype
    scale: float
    window: int = 0  # as `Variant` has them
    soft_cap: float = 0.0

    @property
    def head_dim(self) -> int:
        """Of the values."""
        return self.rank


class LatentRun:
    """Steps of single tokens, or others, over latents; the former fit for capture, with any number of rows.

    `run` reads the workspaces, which stay, what the last plan left in them, and the page indices it was given. Where
    in the workspaces things lie, and the grid, do not depend on the rows while each has one query: so one wrapper
    serves all captured sizes, instead of sixteen MiB for each, as long as it is planned before each replay.
    """

    def __init__(
        self, flashinfer: Any, variant: LatentVariant, backend: str, device: torch.device, *, decode: bool
    ) -> None:
        self.variant = variant
        self.decode = decode
        multiprocessors = devices.multiprocessors(device)
        self._multiprocessors = multiprocessors
        size = 2 * multiprocessors * TILE * (variant.rank * variant.dtype.itemsize + 4) + 4096  # and room to align
        self.wrapper = flashinfer.BatchMLAPagedAttentionWrapper(
            torch.zeros(size, dtype=torch.uint8, device=device), backend=backend
        )
        self._staged = Staged(device)
        self._event = devices.event(device)

    def plan(self, numbers: Numbers, indices: torch.Tensor) -> None:
        """Make the next runs those of these rows, whose pages stand in `indices`, as long as the buffer is.

        Raises PluginError for a step that FlashInfer has no room to plan.
        """
        v = self.variant
        if work_of(numbers, v.heads, self._multiprocessors) > MOST_WORK:
            raise PluginError(
                f"flashinfer: {int(numbers.q_indptr[-1])} tokens of {v.heads} heads are more than a plan holds.",
                remedy="Lower --chunked-prefill-size.",
            )
        self._event.synchronize()
        q_indptr, indptr, kv_lens = self._staged.of((numbers.q_indptr, numbers.indptr, numbers.kv_lens))
        self.wrapper.plan(
            *(q_indptr, indptr, indices, kv_lens),
            *(v.heads, v.rank, v.rope_dim, v.page_size),
            not self.decode,  # causal
            v.scale,
            v.dtype,
            v.kv_dtype,
        )
        self._event.record()

    def run(self, q: torch.Tensor, rope: torch.Tensor, pool: torch.Tensor, out: torch.Tensor) -> None:
        """q, out [tokens, heads, rank], rope [tokens, heads, rope_dim], pool [pages, page_size, 1, rank + rope_dim]."""
        latents = pool.squeeze(2)
        rank = self.variant.rank
        self.wrapper.run(q, rope, latents[..., :rank], latents[..., rank:], out=out)


def work_of(numbers: Numbers, heads: int, multiprocessors: int) -> int:
    """Tiles of a plan at most: of queries, and one more for each cut of keys."""
    packed = np.diff(numbers.q_indptr).astype(np.int64) * heads
    tile = 2 * TILE if int(packed.sum()) // max(1, len(packed)) > TILE else TILE
    return int((-(-packed // tile)).sum()) + 2 * multiprocessors
