"""The memory in which FlashInfer keeps partial results: one buffer for all that runs on the stream, one after another.

How much a plan takes of it follows from how FlashInfer 0.6.14 splits work (`attention/scheduler.cuh` in its sources):
a float32 vector and a sum for each query of each tile that may be split.
"""

from __future__ import annotations

import torch

from sglcore_plugin_flashinfer.numbers import Variant

LIMIT = 256 << 20  # beyond which prompts are not split rather than given more
ROWS = 512  # decode rows for which there is room from the first plan on, so that it counts when memory is measured
STEP = 16 << 20  # sizes are multiples of this
BLOCKS = 32  # of a decode kernel on CUDA cores that a multiprocessor can hold at most


class Workspace:
    """Float workspace of one backend. A buffer that became too small stays with those who have it."""

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None

    def at_least(self, size: int, device: torch.device) -> torch.Tensor:
        """uint8 of `size` bytes or more, the same one as long as it is large enough."""
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = torch.empty(-(-size // STEP) * STEP, dtype=torch.uint8, device=device)
        return self._buffer


def decode_bytes(variant: Variant, rows: int, tensor_cores: bool, multiprocessors: int) -> int:
    """What a captured decode step of `rows` rows takes."""
    if not tensor_cores:
        tiles, queries = BLOCKS * multiprocessors // variant.kv_heads, 1
    else:
        queries = 16 if variant.group <= 16 else 64 if variant.group <= 64 or variant.head_dim >= 256 else 128
        all_tiles = -(-rows * variant.group // queries) + rows - 1
        tiles = max(2 * multiprocessors // variant.kv_heads, all_tiles)
    return _bytes(variant, tiles * queries)


def prefill_bytes(variant: Variant, multiprocessors: int) -> int:
    """What a step of prompts takes at most, where its rows are split."""
    queries = 64 if variant.head_dim >= 256 else 128
    return _bytes(variant, 2 * multiprocessors // variant.kv_heads * queries)


def usual_bytes(variant: Variant, tensor_cores: bool, multiprocessors: int) -> int:
    """What a backend takes at once."""
    return min(LIMIT, decode_bytes(variant, ROWS, tensor_cores, multiprocessors))


def _bytes(variant: Variant, queries: int) -> int:
    return 4 * variant.heads * queries * (variant.head_dim + 1) + 4096  # and room to align
