"""What decode and prefill share on the device: where keys lie, capped scores, and the running softmax.

The softmax is kept as Milakov and Gimelshein's (arXiv:1805.02867) running maximum and sum, in powers of two; attention
over tiles with it is FlashAttention (arXiv:2205.14135).
"""

# mypy: allow-incomplete-defs
from __future__ import annotations

import triton
import triton.language as tl

LOG2E = 1.4426950408889634


@triton.jit
def places(table, position, inside, page_stride, slot_stride, PAGE: tl.constexpr, MASKED: tl.constexpr):
    """Offsets of positions in the pool, int64, by the row's page `table`. Where not `inside`: of some real slot."""
    if MASKED:
        page = tl.load(table + position // PAGE, mask=inside, other=0)
    else:
        page = tl.load(table + position // PAGE)
    return page.to(tl.int64) * page_stride + (position % PAGE).to(tl.int64) * slot_stride


@triton.jit
def tile(base, place, inside, dtype: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, MASKED: tl.constexpr):
    """[positions, WIDE] of keys or values in the compute type; zero past DIM and where MASKED and not `inside`."""
    dim = tl.arange(0, WIDE)
    at = base + place[:, None] + dim[None, :]
    if MASKED:
        mask = inside[:, None]
        if DIM < WIDE:
            mask = mask & (dim < DIM)[None, :]
        found = tl.load(at, mask=mask, other=0.0)
    elif DIM < WIDE:
        found = tl.load(at, mask=(dim < DIM)[None, :], other=0.0)
    else:
        found = tl.load(at)
    return found.to(dtype)


@triton.jit
def capped(scores, unit, outer):
    """outer * tanh, written with the one fast exponential there is: `unit` holds 2 log2(e) scale / cap."""
    return outer - 2.0 * outer / (tl.exp2(scores * unit) + 1.0)


@triton.jit
def fold(scores, unit, v, acc, total, peak, GUARD: tl.constexpr):
    """One tile into the running softmax: (acc, total, peak). scores * unit are logarithms to base two.

    GUARD: rows may have seen nothing yet, and still see nothing in this tile.
    """
    highest = tl.maximum(peak, tl.max(scores, 1) * unit)
    anchor = highest
    if GUARD:
        anchor = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp2(scores * unit - anchor[:, None])
    shrink = tl.exp2(peak - anchor)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return acc, total, highest
