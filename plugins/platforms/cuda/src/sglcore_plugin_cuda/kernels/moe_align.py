"""Pairs of token and expert, brought together by expert in blocks of equal size, without a look from the host.

A counting sort: each program knows how many pairs of each expert there are and how many stand before its own, and
places its own one after another; the order is that of the tokens, the same every time. Sizes depend on the number of
pairs alone: blocks that no expert fills hold 0 rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.launch import follow, options
from sglcore_plugin_cuda.kernels.moe_table import most_blocks

PART = 128  # pairs placed at once
SMALL_PART = 32  # the same where every program counts all by itself: more programs, smaller tables in each
AT_ONCE = (256, 1024, 4096)  # pairs up to which every program counts all by itself, in one of these sizes
CHUNK = 512  # pairs of a program beyond that
LEAST_BINS = 32
STEP = 32  # rows of the table of counts read at once
LEAST_SHARE = 16
WARPS = 8


@triton.jit(do_not_specialize=["pairs"])
def _count(  # type: ignore[no-untyped-def]
    experts,
    counts,
    pairs,
    CHUNK: tl.constexpr,
    BINS: tl.constexpr,
    PDL: tl.constexpr,
):
    chunk = tl.program_id(0)
    place = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = place < pairs
    follow(PDL)
    expert = tl.load(experts + place, mask=inside, other=0)
    tl.store(counts + chunk * BINS + tl.arange(0, BINS), tl.histogram(expert, BINS, mask=inside))


@triton.jit(do_not_specialize=["pairs", "most"])
def _place(  # type: ignore[no-untyped-def]
    experts,
    counts,
    order,
    blocks,
    pairs,
    most,
    CHUNK: tl.constexpr,
    PART: tl.constexpr,
    BINS: tl.constexpr,
    ALL: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    SHARE: tl.constexpr,
    PDL: tl.constexpr,
):
    """ALL: a power of two that holds all pairs, or 0 where `counts` holds them by chunk."""
    chunk = tl.program_id(0)
    bins = tl.arange(0, BINS)
    follow(PDL)
    if ALL > 0:
        place = tl.arange(0, ALL)
        inside = place < pairs
        every = tl.load(experts + place, mask=inside, other=0)
        total = tl.histogram(every, BINS, mask=inside)
        before = tl.histogram(every, BINS, mask=inside & (place < chunk * CHUNK))
    else:
        total = tl.zeros([BINS], dtype=tl.int32)
        before = tl.zeros([BINS], dtype=tl.int32)
        chunks = tl.num_programs(0)
        for first in range(0, chunks, STEP):
            row = first + tl.arange(0, STEP)
            cell = counts + row[:, None] * BINS + bins[None, :]
            part = tl.load(cell, mask=(row < chunks)[:, None], other=0)
            total += tl.sum(part, axis=0)
            before += tl.sum(tl.where((row < chunk)[:, None], part, 0), axis=0)
    filled = (total + (BLOCK_M - 1)) // BLOCK_M  # blocks of each expert
    end = tl.cumsum(filled, axis=0)
    start = end - filled

    block = chunk * SHARE + tl.arange(0, SHARE)  # the blocks that this program describes
    owner = tl.sum((end[None, :] <= block[:, None]).to(tl.int32), axis=1)  # BINS past the last block
    left = total[None, :] - (block[:, None] - start[None, :]) * BLOCK_M
    left = tl.sum(tl.where(bins[None, :] == owner[:, None], left, 0), axis=1)
    tl.store(blocks + block, tl.minimum(owner, BINS - 1), mask=block < most)
    tl.store(blocks + most + block, tl.minimum(left, BLOCK_M), mask=block < most)

    following = start * BLOCK_M + before  # where the next pair of each expert goes
    lane = tl.arange(0, PART)
    for first in range(0, CHUNK, PART):
        pair = chunk * CHUNK + first + lane
        known = pair < pairs
        expert = tl.load(experts + pair, mask=known, other=0)
        earlier = (expert[:, None] == expert[None, :]) & (lane[None, :] < lane[:, None])
        rank = tl.sum(earlier.to(tl.int32), axis=1)
        base = tl.sum(tl.where(bins[None, :] == expert[:, None], following[None, :], 0), axis=1)
        tl.store(order + base + rank, pair, mask=known)
        following += tl.histogram(expert, BINS, mask=known)


def align(
    experts: torch.Tensor, count: int, block_m: int, *, pdl: bool = False
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """experts int32 [tokens, k], contiguous, each below `count` -> (order, blocks, most).

    order int32 [most * block_m]: block b's pairs from b * block_m on, in order; past its rows it holds anything.
    blocks int32 [2, most]: each block's expert and its number of rows, 0 where there is none.
    """
    pairs = experts.numel()
    most = most_blocks(pairs, count, block_m)
    order = torch.empty(most * block_m, dtype=torch.int32, device=experts.device)
    blocks = torch.empty((2, most), dtype=torch.int32, device=experts.device)
    bins = max(LEAST_BINS, triton.next_power_of_2(count))
    whole = next((size for size in AT_ONCE if pairs <= size), 0)
    part = SMALL_PART if whole else PART
    chunk = part if whole else CHUNK
    chunks = triton.cdiv(pairs, chunk)
    counts = blocks
    if not whole:
        counts = torch.empty((chunks, bins), dtype=torch.int32, device=experts.device)
        _count[(chunks,)](experts, counts, pairs, CHUNK=chunk, BINS=bins, **options(WARPS, pdl))
    _place[(chunks,)](
        experts,
        counts,
        order,
        blocks,
        pairs,
        most,
        CHUNK=chunk,
        PART=part,
        BINS=bins,
        ALL=whole,
        STEP=STEP,
        BLOCK_M=block_m,
        SHARE=max(LEAST_SHARE, triton.next_power_of_2(triton.cdiv(most, chunks))),
        **options(WARPS, pdl),
    )
    return order, blocks, most
