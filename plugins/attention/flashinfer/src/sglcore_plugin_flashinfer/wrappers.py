"""FlashInfer's wrappers with what each needs around it: pinned numbers, and the event after which they may change.

`plan` of a wrapper fills a pinned buffer of its own and queues a copy of it. The next plan of the same wrapper would
write into that buffer while the copy may still wait in the stream: each plan first waits for the event that the one
before left behind it. With two steps in flight that event has long passed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sglcore_plugin_flashinfer import device as devices
from sglcore_plugin_flashinfer.numbers import Numbers, Variant

DECODE_INTS = 1 << 18  # bytes of plan of a decode wrapper; 2,048 rows take 70 KB
CUDA_CORE_GROUPS = (1, 2, 3)  # query heads a key/value head for which the kernel without tensor cores is taken


class DecodeRun:
    """Decode of a fixed number of rows, fit for capture: the grid and all addresses stay as they are."""

    def __init__(
        self, flashinfer: Any, variant: Variant, rows: int, indices: torch.Tensor, workspace: torch.Tensor
    ) -> None:
        self.variant = variant
        self.rows = rows
        self.captured = False
        self._indices = indices
        self._host = devices.staging(2 * rows + 1, workspace.device)
        self._numbers = self._host.numpy()
        self._device = torch.zeros(2 * rows + 1, dtype=torch.int32, device=workspace.device)
        self._event = devices.event(workspace.device)
        self.wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace,
            "NHD",
            use_cuda_graph=True,
            use_tensor_cores=tensor_cores(variant),
            paged_kv_indptr_buffer=self._device[: rows + 1],
            paged_kv_indices_buffer=indices,
            paged_kv_last_page_len_buffer=self._device[rows + 1 :],
        )
        ints = torch.empty(DECODE_INTS, dtype=torch.uint8, device=workspace.device)
        self.wrapper.reset_workspace_buffer(workspace, ints)
        # The plan for wrappers in graph mode that leaves out what cannot change: it needs one full plan before.
        self._fast = getattr(flashinfer, "fast_decode_plan", None)
        self._planned = False

    def plan(self, numbers: Numbers) -> None:
        """Make the next runs, also replayed ones, those of these rows."""
        v, rows = self.variant, self.rows
        self._event.synchronize()
        self._numbers[: rows + 1] = numbers.indptr
        self._numbers[rows + 1 :] = numbers.last
        given = (self._host[: rows + 1], self._indices, self._host[rows + 1 :])
        shape = (v.heads, v.kv_heads, v.head_dim, v.page_size)
        self._device.copy_(self._host, non_blocking=True)
        if self._planned and self._fast is not None:
            self._fast(self.wrapper, *given, *shape, **v.options)
        else:
            self.wrapper.plan(*given, *shape, **v.options)
            self._planned = True
        self._event.record()

    def settle(self) -> None:
        """Wait until the copies of the last plan are through, before this goes."""
        self._event.synchronize()


class Staged:
    """Numbers on their way to the device, in pinned memory that grows when it must."""

    def __init__(self, device: torch.device) -> None:
        self._place = device
        self._host = devices.staging(0, device)

    def of(self, arrays: tuple[np.ndarray, ...]) -> list[torch.Tensor]:
        """The arrays, valid until the next call."""
        size = sum(map(len, arrays))
        if self._host.numel() < size:
            self._host = devices.staging(2 * size, self._place)
        parts = list(self._host[:size].split([len(array) for array in arrays]))
        for part, array in zip(parts, arrays, strict=True):
            part.numpy()[:] = array
        return parts


class FreshRun:
    """Steps of whole prompts of which nothing was cached: keys and values are read where the layer left them, which is
    faster than page by page. Of any number of rows and tokens; not for capture."""

    def __init__(self, flashinfer: Any, variant: Variant, backend: str, workspace: torch.Tensor) -> None:
        self.variant = variant
        self.wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend=backend)
        self._staged = Staged(workspace.device)
        self._event = devices.event(workspace.device)

    def plan(self, numbers: Numbers) -> None:
        """Make the next runs those of these rows."""
        v = self.variant
        self._event.synchronize()
        (indptr,) = self._staged.of((numbers.q_indptr,))
        self.wrapper.plan(indptr, indptr, v.heads, v.kv_heads, v.head_dim, causal=True, **v.options)
        self._event.record()

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
        """q, out [tokens, heads, dim], k, v [tokens, kv_heads, dim], of the same tokens."""
        self.wrapper.run(q, k, v, out=out)


class PrefillRun:
    """Steps with prompts in them, of any number of rows and tokens; not for capture."""

    def __init__(self, flashinfer: Any, variant: Variant, backend: str, split: bool, workspace: torch.Tensor) -> None:
        self.variant = variant
        self.wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend=backend)
        self._whole = {} if split else {"disable_split_kv": True}
        self._staged = Staged(workspace.device)
        self._event = devices.event(workspace.device)

    def plan(self, numbers: Numbers, indices: torch.Tensor) -> None:
        """Make the next runs those of these rows, whose pages stand in `indices`."""
        v = self.variant
        self._event.synchronize()
        arrays = (numbers.q_indptr, numbers.indptr, numbers.last, numbers.kv_lens)
        q_indptr, indptr, last, kv_lens = self._staged.of(arrays)
        self.wrapper.plan(
            *(q_indptr, indptr, indices[: numbers.pages], last),
            *(v.heads, v.kv_heads, v.head_dim, v.page_size),
            causal=True,
            seq_lens=kv_lens,
            max_token_per_sequence=numbers.longest,
            **v.options,
            **self._whole,
        )
        self._event.record()


def tensor_cores(variant: Variant) -> bool:
    """Whether a decode step multiplies on tensor cores: where query heads that share keys fill enough of a tile."""
    return variant.group not in CUDA_CORE_GROUPS
