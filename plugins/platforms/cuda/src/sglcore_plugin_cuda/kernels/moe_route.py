"""A router's choice: softmax over the experts and the k largest of it, in one pass and in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.launch import follow, options

ROWS = 4  # tokens of a program, a warp each
FEW = 64  # tokens up to which each has a program of its own


@triton.jit(do_not_specialize=["tokens"])
def _route(  # type: ignore[no-untyped-def]
    logits,
    weights,
    chosen,
    tokens,
    stride,
    EXPERTS: tl.constexpr,
    TOP: tl.constexpr,
    NORMALISE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SLOTS: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    slot = tl.arange(0, SLOTS)
    known = row < tokens
    free = known[:, None] & (column < EXPERTS)[None, :]
    follow(PDL)
    start = logits + row.to(tl.int64)[:, None] * stride + column[None, :]
    score = tl.load(start, mask=free, other=float("-inf")).to(tl.float32)
    # a NaN is never the largest, but makes all weights NaN through the sum: the choice stays within the experts
    rank = tl.where(score == score, score, float("-inf"))
    largest = tl.max(rank, axis=1)
    total = tl.sum(tl.where(free, tl.exp(score - largest[:, None]), 0.0), axis=1)
    taken = tl.zeros([ROWS, SLOTS], dtype=tl.int32)
    share = tl.zeros([ROWS, SLOTS], dtype=tl.float32)
    for number in tl.static_range(TOP):
        best = tl.max(tl.where(free, rank, float("-inf")), axis=1)
        expert = tl.min(tl.where(free & (rank == best[:, None]), column[None, :], EXPERTS - 1), axis=1)
        free = free & (column[None, :] != expert[:, None])
        here = (slot == number)[None, :]
        taken = tl.where(here, expert[:, None], taken)
        share = tl.where(here, (tl.exp(best - largest) / total)[:, None], share)
    if NORMALISE:
        share = share / tl.sum(share, axis=1)[:, None]
    place = row.to(tl.int64)[:, None] * TOP + slot[None, :]
    mask = known[:, None] & (slot < TOP)[None, :]
    tl.store(weights + place, share, mask=mask)
    tl.store(chosen + place, taken, mask=mask)


def route(logits: torch.Tensor, k: int, normalise: bool, *, pdl: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [tokens, experts] -> the k largest of their softmax, float32, and whose they are, int32 [tokens, k]."""
    tokens, experts = logits.shape
    weights = torch.empty((tokens, k), dtype=torch.float32, device=logits.device)
    chosen = torch.empty((tokens, k), dtype=torch.int32, device=logits.device)
    rows = 1 if tokens <= FEW else ROWS
    if tokens:
        _route[(triton.cdiv(tokens, rows),)](
            logits,
            weights,
            chosen,
            tokens,
            logits.stride(0),
            EXPERTS=experts,
            TOP=k,
            NORMALISE=normalise,
            ROWS=rows,
            BLOCK=triton.next_power_of_2(experts),
            SLOTS=triton.next_power_of_2(k),
            **options(rows, pdl),
        )
    return weights, chosen
