"""silu(gate) * up in one pass; silu in float32, rounded before the product as Transformers does."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.launch import follow, options, warps_for

BLOCK = 1024


@triton.jit
def _silu_mul(  # type: ignore[no-untyped-def]
    gate_up, out, stride, width, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    follow(PDL)
    start = gate_up + row * stride + column
    gate = tl.load(start, mask=inside, other=0.0)
    up = tl.load(start + width, mask=inside, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    tl.store(out + row * width + column, (silu * up).to(gate.dtype), mask=inside)


def silu_mul(gate_up: torch.Tensor, *, pdl: bool = False) -> torch.Tensor:
    """gate_up [tokens, 2 n], the last dimension contiguous -> silu(first half) * second half, [tokens, n]."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
    block = min(BLOCK, triton.next_power_of_2(width))
    _silu_mul[(rows, triton.cdiv(width, block))](
        gate_up, out, gate_up.stride(0), width, BLOCK=block, **options(warps_for(block), pdl)
    )
    return out
