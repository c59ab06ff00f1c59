"""Root-mean-square norm (Zhang and Sennrich, arXiv:1910.07467), alone and with the residual sum before it.

Statistics in float32; the scaled row is rounded to the dtype of x before the weight multiplies it, the order in which
Transformers rounds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.launch import follow, options, rows_of, warps_for

TILE = 2048  # elements up to which several short rows share a program


@triton.jit(do_not_specialize=["rows"])
def _rms_norm(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    rows,
    inner,
    outer_stride,
    inner_stride,
    width,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = column < width
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    follow(PDL)
    start = (row // inner) * outer_stride + (row % inner) * inner_stride
    mask = (row < rows)[:, None] & inside[None, :]
    value = tl.load(x + start[:, None] + column[None, :], mask=mask, other=0.0)
    wide = value.to(tl.float32)
    mean = tl.sum(wide * wide, axis=1) / width
    normed = (wide * tl.math.rsqrt(mean + eps)[:, None]).to(value.dtype).to(tl.float32)
    tl.store(out + row[:, None] * width + column[None, :], (normed * scale[None, :]).to(value.dtype), mask=mask)


@triton.jit
def _add_rms_norm(  # type: ignore[no-untyped-def]
    x,
    residual,
    weight,
    out,
    x_stride,
    residual_stride,
    width,
    eps,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    follow(PDL)
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0)
    kept = residual + row * residual_stride + column
    total = (value.to(tl.float32) + tl.load(kept, mask=inside, other=0.0).to(tl.float32)).to(value.dtype)
    tl.store(kept, total, mask=inside)
    wide = total.to(tl.float32)
    mean = tl.sum(wide * wide, axis=0) / width
    normed = (wide * tl.math.rsqrt(mean + eps)).to(value.dtype).to(tl.float32)
    tl.store(out + row * width + column, (normed * scale).to(value.dtype), mask=inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, *, pdl: bool = False) -> torch.Tensor:
    """x [..., n] with n contiguous, weight [n] -> like x, contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    width = x.shape[-1]
    x, rows, inner, outer_stride, inner_stride = rows_of(x)
    block = triton.next_power_of_2(width)
    several = min(triton.next_power_of_2(max(rows, 1)), max(1, TILE // block))
    _rms_norm[(triton.cdiv(rows, several),)](
        x,
        weight,
        out,
        rows,
        inner,
        outer_stride,
        inner_stride,
        width,
        eps,
        ROWS=several,
        BLOCK=block,
        **options(warps_for(several * block), pdl),
    )
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, *, pdl: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, residual [tokens, n], n contiguous -> (norm(x + residual), x + residual); the sum is written to `residual`."""
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(width)
    _add_rms_norm[(rows,)](
        x,
        residual,
        weight,
        out,
        x.stride(0),
        residual.stride(0),
        width,
        eps,
        BLOCK=block,
        **options(warps_for(block), pdl),
    )
    return out, residual
