"""What all kernels share: how they follow the kernel before them, and how many warps a block takes.

Programmatic dependent launch (CUDA programming guide, "Programmatic Dependent Launch and Synchronization") lets a
kernel start while the one before it still runs. It may then touch nothing but constants until `follow` returned: what
it reads may not be written yet, and what it writes may still be read. Every kernel here calls `follow` in every
program, first of all or right after asking for weights, so each one ends after all those before it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

ELEMENTS_A_THREAD = 8  # 16 bytes of a half type
MOST_WARPS = 16


@triton.jit
def follow(PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Wait for all kernels before this one, then let the next one start; nothing where `PDL` is false."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


def warps_for(elements: int) -> int:
    """Warps of a program that holds so many elements: a power of two from 1 to 16."""
    wanted = triton.cdiv(elements, 32 * ELEMENTS_A_THREAD)
    return int(min(MOST_WARPS, triton.next_power_of_2(max(1, wanted))))


def options(warps: int, pdl: bool) -> dict[str, Any]:
    """Keyword arguments of a launch."""
    return {"num_warps": warps, "PDL": pdl, "launch_pdl": pdl}


def rows_of(x: torch.Tensor) -> tuple[torch.Tensor, int, int, int, int]:
    """x [..., n], n contiguous -> (x or a copy, rows, rows that stand side by side, stride of groups, stride inside).

    Row r of the result lies at (r // inner) * outer_stride + (r % inner) * inner_stride: a slice of heads out of a
    fused projection is read where it is.
    """
    if x.stride(-1) != 1 or x.dim() > 3:
        x = x.contiguous().view(-1, x.shape[-1])
    if x.dim() == 1:
        return x, 1, 1, 0, 0
    if x.dim() == 2:
        return x, x.shape[0], 1, x.stride(0), 0
    return x, x.shape[0] * x.shape[1], max(1, x.shape[1]), x.stride(0), x.stride(1)
