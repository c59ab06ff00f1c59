"""Products of blocks of rows, each with its own expert's matrix, and the sum over a token's experts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.launch import follow, options, warps_for
from sglcore_plugin_cuda.kernels.moe_table import Grouped

SUM_BLOCK = 1024


@triton.jit
def _where(pid, blocks, TILES: tl.constexpr, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """(block of rows, tile of the weight) of a program: `GROUP` blocks go through the tiles side by side."""
    span = GROUP * TILES
    first = (pid // span) * GROUP
    size = tl.minimum(blocks - first, GROUP)
    return first + (pid % span) % size, (pid % span) // size


@triton.jit
def _gate(total, SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """silu(gate) * up of a tile that holds both, interleaved as `_grouped` reads them: by 8 rows of the weight where it
    is the left operand, else by one; a thread of the tensor core then holds both of what belongs together."""
    if SWAP:
        parts = tl.permute(tl.reshape(total, (BLOCK_N // 16, 2, 8, BLOCK_M)), (0, 2, 3, 1))
        gate, up = tl.split(parts)
        gate = tl.reshape(gate, (BLOCK_N // 2, BLOCK_M))
        up = tl.reshape(up, (BLOCK_N // 2, BLOCK_M))
    else:
        gate, up = tl.split(tl.reshape(total, (BLOCK_M, BLOCK_N // 2, 2)))
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit(do_not_specialize=["most"])
def _grouped(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    scale,
    order,
    blocks,
    most,
    K: tl.constexpr,
    N: tl.constexpr,
    TOP: tl.constexpr,
    GATED: tl.constexpr,
    SWAP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """GATED: rows of x by token, N = 2 * inner rows of the weight, out silu(gate) * up. Else rows of x by pair, out
    the product times the pair's weight. Rows of `out` are pairs."""
    follow(PDL)
    block, tile = _where(tl.program_id(0), most, tl.cdiv(N, BLOCK_N), GROUP)
    rows = tl.load(blocks + most + block)
    if rows == 0:
        return
    expert = tl.load(blocks + block).to(tl.int64)
    lane = tl.arange(0, BLOCK_M)
    pair = tl.load(order + block * BLOCK_M + lane, mask=lane < rows, other=0).to(tl.int64)
    source = tl.arange(0, BLOCK_N)
    if GATED:
        if SWAP:
            half, column = (source // 8) % 2, (source // 16) * 8 + source % 8
        else:
            half, column = source % 2, source // 2
        source = half * (N // 2) + tl.minimum(tile * (BLOCK_N // 2) + column, N // 2 - 1)
        line = pair // TOP
    else:
        source = tl.minimum(tile * BLOCK_N + source, N - 1)
        line = pair
    k = tl.arange(0, BLOCK_K)
    matrix = weight + expert * (N * K)
    if SWAP:
        left = matrix + source[:, None] * K + k[None, :]
        right = x + line[None, :] * K + k[:, None]
        total = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    else:
        left = x + line[:, None] * K + k[None, :]
        right = matrix + source[None, :] * K + k[:, None]
        total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            a, b = tl.load(left), tl.load(right)
        else:
            a = tl.load(left, mask=(k < K - first)[None, :], other=0.0)
            b = tl.load(right, mask=(k < K - first)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        left += BLOCK_K
        right += BLOCK_K

    width: tl.constexpr = N // 2 if GATED else N
    if GATED:
        target = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        result = _gate(total, SWAP, BLOCK_M, BLOCK_N)
    else:
        target = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        share = tl.load(scale + pair, mask=lane < rows, other=0.0)
        result = total * (share[None, :] if SWAP else share[:, None])
    result = result.to(out.dtype.element_ty)
    if SWAP:
        mask = (target < width)[:, None] & (lane < rows)[None, :]
        tl.store(out + pair[None, :] * width + target[:, None], result, mask=mask)
    else:
        mask = (lane < rows)[:, None] & (target < width)[None, :]
        tl.store(out + pair[:, None] * width + target[None, :], result, mask=mask)


@triton.jit
def _sum(terms, out, width, TOP: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    follow(PDL)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for number in tl.static_range(TOP):
        total += tl.load(terms + (token * TOP + number) * width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * width + column, total.to(out.dtype.element_ty), mask=inside)


def grouped(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    sorted_pairs: tuple[torch.Tensor, torch.Tensor, int],
    config: Grouped,
    *,
    gated: bool,
    pdl: bool = False,
) -> torch.Tensor:
    """x [tokens, K] if gated, else [pairs, K]; weight [experts, N, K]; scale float32 [tokens, k]; what `align` gave.

    -> [pairs, N / 2], silu(gate) * up, if gated; else [pairs, N], each row times its scale.
    """
    order, blocks, most = sorted_pairs
    rows, k = weight.shape[1], weight.shape[2]
    out = torch.empty((scale.numel(), rows // 2 if gated else rows), dtype=x.dtype, device=x.device)
    wide = x.element_size() == 4  # twice the shared memory
    _grouped[(most * triton.cdiv(rows, config.block_n),)](
        x,
        weight,
        out,
        scale,
        order,
        blocks,
        most,
        K=k,
        N=rows,
        TOP=scale.shape[1],
        GATED=gated,
        SWAP=config.swap,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k // 2 if wide else config.block_k,
        GROUP=config.group,
        PRECISION="ieee" if wide else "tf32",
        num_stages=config.stages,
        **options(config.warps, pdl),
    )
    return out


def sum_terms(terms: torch.Tensor, tokens: int, *, pdl: bool = False) -> torch.Tensor:
    """terms [tokens * k, hidden] -> [tokens, hidden], each token's k rows added up in float32."""
    hidden = terms.shape[1]
    out = torch.empty((tokens, hidden), dtype=terms.dtype, device=terms.device)
    block = min(SUM_BLOCK, triton.next_power_of_2(hidden))
    _sum[(tokens, triton.cdiv(hidden, block))](
        terms, out, hidden, TOP=terms.shape[0] // tokens, BLOCK=block, **options(warps_for(block), pdl)
    )
    return out
