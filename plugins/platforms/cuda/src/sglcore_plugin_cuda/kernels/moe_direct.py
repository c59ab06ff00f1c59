"""A few tokens: every pair of token and expert streams its expert's weights, matrix times vector, in float32.

Two launches and no sorting; each weight is read once where no two tokens share an expert.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.launch import follow, options
from sglcore_plugin_cuda.kernels.moe_table import Direct


@triton.jit
def _direct_up(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    experts,
    WIDTH: tl.constexpr,
    INNER: tl.constexpr,
    TOP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """Gate rows and up rows take turns in a tile, so that a program has both halves of its results."""
    pair = tl.program_id(1)
    row = tl.arange(0, ROWS)
    column = tl.program_id(0) * (ROWS // 2) + row // 2
    source = (row % 2) * INNER + tl.minimum(column, INNER - 1)
    lane = tl.arange(0, BLOCK_K)
    follow(PDL)
    expert = tl.load(experts + pair).to(tl.int64)
    vector = x + (pair // TOP).to(tl.int64) * WIDTH
    matrix = weight + expert * (2 * INNER * WIDTH) + source[:, None] * WIDTH
    total = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    for first in tl.range(0, WIDTH, BLOCK_K, num_stages=STAGES):
        place = first + lane
        a = tl.load(vector + place, mask=place < WIDTH, other=0.0).to(tl.float32)
        b = tl.load(matrix + place[None, :], mask=(place < WIDTH)[None, :], other=0.0).to(tl.float32)
        total += a[None, :] * b
    gate, up = tl.split(tl.reshape(tl.sum(total, axis=1), (ROWS // 2, 2)))
    result = gate / (1.0 + tl.exp(-gate)) * up
    target = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
    tl.store(out + pair.to(tl.int64) * INNER + target, result.to(out.dtype.element_ty), mask=target < INNER)


@triton.jit
def _direct_down(  # type: ignore[no-untyped-def]
    inner,
    weight,
    out,
    experts,
    scale,
    WIDTH: tl.constexpr,
    INNER: tl.constexpr,
    TOP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """All experts of a token in one program: unrolled, so that their loads do not wait for one another."""
    token = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    source = tl.minimum(row, WIDTH - 1)
    lane = tl.arange(0, BLOCK_K)
    follow(PDL)
    total = tl.zeros([ROWS, BLOCK_K], dtype=tl.float32)
    for number in tl.static_range(TOP):
        pair = token * TOP + number
        expert = tl.load(experts + pair).to(tl.int64)
        share = tl.load(scale + pair)
        matrix = weight + expert * (WIDTH * INNER) + source[:, None] * INNER
        vector = inner + pair.to(tl.int64) * INNER
        for first in tl.static_range(0, INNER, BLOCK_K):
            place = first + lane
            a = tl.load(vector + place, mask=place < INNER, other=0.0).to(tl.float32)
            b = tl.load(matrix + place[None, :], mask=(place < INNER)[None, :], other=0.0).to(tl.float32)
            total += (a * share)[None, :] * b
    result = tl.sum(total, axis=1).to(out.dtype.element_ty)
    tl.store(out + token.to(tl.int64) * WIDTH + row, result, mask=row < WIDTH)


def direct_up(
    x: torch.Tensor, gate_up: torch.Tensor, experts: torch.Tensor, config: Direct, *, pdl: bool = False
) -> torch.Tensor:
    """x [tokens, hidden], gate_up [experts, 2 * inner, hidden], experts int32 [tokens, k] -> [tokens * k, inner]."""
    pairs, k = experts.numel(), experts.shape[1]
    inner, hidden = gate_up.shape[1] // 2, x.shape[1]
    out = torch.empty((pairs, inner), dtype=x.dtype, device=x.device)
    _direct_up[(triton.cdiv(inner, config.rows // 2), pairs)](
        x,
        gate_up,
        out,
        experts,
        WIDTH=hidden,
        INNER=inner,
        TOP=k,
        ROWS=config.rows,
        BLOCK_K=min(config.block_k, triton.next_power_of_2(hidden)),
        STAGES=config.stages,
        **options(config.warps, pdl),
    )
    return out


def direct_down(
    inner: torch.Tensor,
    down: torch.Tensor,
    weights: torch.Tensor,
    experts: torch.Tensor,
    config: Direct,
    *,
    pdl: bool = False,
) -> torch.Tensor:
    """inner [tokens * k, inner], down [experts, hidden, inner], weights float32 and experts [tokens, k] -> [tokens,
    hidden]."""
    tokens, k = experts.shape
    hidden, columns = down.shape[1], down.shape[2]
    out = torch.empty((tokens, hidden), dtype=inner.dtype, device=inner.device)
    _direct_down[(triton.cdiv(hidden, config.rows), tokens)](
        inner,
        down,
        out,
        experts,
        weights,
        WIDTH=hidden,
        INNER=columns,
        TOP=k,
        ROWS=config.rows,
        BLOCK_K=min(config.block_k, triton.next_power_of_2(columns)),
        **options(config.warps, pdl),
    )
    return out
