"""Argmax and the draw of a token, each in two kernels: parts of the vocabulary side by side, then the parts of a row.

A draw is the argmax of logits / temperature plus Gumbel noise (Maddison, Tarlow, Minka, "A* Sampling",
arXiv:1411.0030): exactly a sample of the softmax, without the softmax. A row with min_p needs its maximum before a
token may take part, so its second kernel reads the logits again, and makes noise only for blocks that hold a token
above the threshold; all other rows are read once.

NaN never wins, so whatever a row holds its result is a token of the vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.gumbel import gumbel, log, noise_key
from sglcore_plugin_cuda.kernels.launch import follow, options

BLOCK = 1024  # tokens of a step of the first kernel
WARPS = 4
PROGRAMS = 1024  # the first kernel is split until it has about so many: a few for each multiprocessor
FEWEST_LANES = 128
WIDE_BLOCK, WIDE_WARPS = 4096, 8  # a step of the second reading of a row with min_p


@triton.jit
def _first_best(value, index):
    """(the largest of value [n], the smallest index that has it)."""
    best = tl.max(value, axis=0)
    return best, tl.min(tl.where(value == best, index, 0x7FFFFFFF), axis=0)


@triton.jit
def _argmax_parts(  # type: ignore[no-untyped-def]
    scores, best, where, stride, vocab, part, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = split * part
    lane = tl.arange(0, BLOCK)
    value = tl.full([BLOCK], float("-inf"), tl.float32)
    index = first + lane
    follow(PDL)
    for start in range(first, tl.minimum(first + part, vocab), BLOCK):
        token = start + lane
        score = tl.load(scores + row * stride + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        better = score > value
        value, index = tl.where(better, score, value), tl.where(better, token, index)
    top, place = _first_best(value, index)
    slot = row * tl.num_programs(1) + split
    tl.store(best + slot, top)
    tl.store(where + slot, place)


@triton.jit(do_not_specialize=["splits"])
def _argmax_rows(  # type: ignore[no-untyped-def]
    best, where, out, splits, SPLITS: tl.constexpr, PDL: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, SPLITS)
    inside = lane < splits
    follow(PDL)
    value = tl.load(best + row * splits + lane, mask=inside, other=float("-inf"))
    index = tl.load(where + row * splits + lane, mask=inside, other=0x7FFFFFFF)
    tl.store(out + row, _first_best(value, index)[1].to(tl.int64))


@triton.jit
def _draw_parts(  # type: ignore[no-untyped-def]
    logits,
    temperature,
    seed,
    position,
    min_p,
    best,
    where,
    stride,
    vocab,
    part,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Of a part of a row: its best score (with noise unless the row is greedy or has min_p) and that score's token,
    or ~token if something in the part is not finite."""
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = split * part
    lane = tl.arange(0, BLOCK)
    value = tl.full([BLOCK], float("-inf"), tl.float32)
    index = first + lane
    spoiled = tl.zeros([BLOCK], tl.int32)
    follow(PDL)
    heat = tl.load(temperature + row)
    noisy = (heat > 0) & (tl.load(min_p + row) <= 0)
    divisor = tl.where(heat > 0, heat, 1.0)
    key = noise_key(tl.load(seed + row), tl.load(position + row))
    for start in range(first, tl.minimum(first + part, vocab), BLOCK):
        token = start + lane
        inside = token < vocab
        logit = tl.load(logits + row * stride + token, mask=inside, other=float("-inf")).to(tl.float32)
        spoiled |= (inside & ~(tl.abs(logit) < float("inf"))).to(tl.int32)
        score = tl.math.div_rn(logit, divisor)
        if noisy:
            score += gumbel(key, token)
        better = score > value
        value, index = tl.where(better, score, value), tl.where(better, token, index)
    top, place = _first_best(value, index)
    slot = row * tl.num_programs(1) + split
    tl.store(best + slot, top)
    tl.store(where + slot, tl.where(tl.max(spoiled, axis=0) > 0, ~place, place))


@triton.jit(do_not_specialize=["splits"])
def _draw_rows(  # type: ignore[no-untyped-def]
    logits,
    temperature,
    seed,
    position,
    min_p,
    best,
    where,
    out,
    finite,
    stride,
    vocab,
    splits,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, SPLITS)
    follow(PDL)
    parts = tl.load(best + row * splits + lane, mask=lane < splits, other=float("-inf"))
    index = tl.load(where + row * splits + lane, mask=lane < splits, other=0x7FFFFFFF)
    top, token = _first_best(parts, tl.where(index < 0, ~index, index))
    tl.store(finite + row, (tl.min(index, axis=0) >= 0).to(tl.uint8))
    heat, floor = tl.load(temperature + row), tl.load(min_p + row)
    if (heat > 0) & (floor > 0):
        token = _second_reading(
            logits + row * stride, heat, top + log(floor), noise_key(tl.load(seed + row), tl.load(position + row)),
            token, vocab, BLOCK,
        )  # fmt: skip
    tl.store(out + row, token.to(tl.int64))


@triton.jit
def _second_reading(row, heat, threshold, key, fallback, vocab, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The token with the best noisy score among those whose score reaches `threshold`; `fallback` if none does."""
    lane = tl.arange(0, BLOCK)
    value = tl.full([BLOCK], float("-inf"), tl.float32)
    index = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
    for start in range(0, vocab, BLOCK):
        token = start + lane
        logit = tl.load(row + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        score = tl.math.div_rn(logit, heat)
        if tl.max((score >= threshold).to(tl.int32), axis=0) > 0:
            noisy = tl.where(score >= threshold, score + gumbel(key, token), float("-inf"))
            better = noisy > value
            value, index = tl.where(better, noisy, value), tl.where(better, token, index)
    token = _first_best(value, index)[1]
    return tl.where(token < vocab, token, fallback)


def parts_of(rows: int, vocab: int) -> tuple[int, int]:
    """(parts of each row, tokens of a part): enough programs to fill a card, each with whole blocks."""
    blocks = triton.cdiv(vocab, BLOCK)
    each = triton.cdiv(blocks, min(blocks, max(1, PROGRAMS // max(rows, 1))))
    return triton.cdiv(blocks, each), each * BLOCK


def lanes_for(splits: int) -> int:
    """Width of the second kernel: one for nearly all, so that few variants are compiled."""
    return int(max(FEWEST_LANES, triton.next_power_of_2(splits)))


def argmax(scores: torch.Tensor, *, pdl: bool = False) -> torch.Tensor:
    """scores float32 [rows, vocab], vocab contiguous -> int64 [rows], the first of equals; NaN counts as -inf."""
    rows, vocab = scores.shape
    splits, part = parts_of(rows, vocab)
    best = torch.empty((rows, splits), dtype=torch.float32, device=scores.device)
    where = torch.empty((rows, splits), dtype=torch.int32, device=scores.device)
    out = torch.empty(rows, dtype=torch.int64, device=scores.device)
    _argmax_parts[(rows, splits)](
        scores, best, where, scores.stride(0), vocab, part, BLOCK=BLOCK, **options(WARPS, pdl)
    )
    _argmax_rows[(rows,)](best, where, out, splits, SPLITS=lanes_for(splits), **options(1, pdl))
    return out


def draw(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    min_p: torch.Tensor,
    *,
    pdl: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `contracts.ops.FusedOps.draw`. logits [rows, vocab] may be of a half type too: they are widened as read."""
    rows, vocab = logits.shape
    splits, part = parts_of(rows, vocab)
    best = torch.empty((rows, splits), dtype=torch.float32, device=logits.device)
    where = torch.empty((rows, splits), dtype=torch.int32, device=logits.device)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    finite = torch.empty(rows, dtype=torch.bool, device=logits.device)
    rules = (temperature, seed, position, min_p)
    _draw_parts[(rows, splits)](
        logits, *rules, best, where, logits.stride(0), vocab, part, BLOCK=BLOCK, **options(WARPS, pdl)
    )
    _draw_rows[(rows,)](
        logits,
        *rules,
        best,
        where,
        out,
        finite.view(torch.uint8),
        logits.stride(0),
        vocab,
        splits,
        SPLITS=lanes_for(splits),
        BLOCK=min(WIDE_BLOCK, triton.next_power_of_2(vocab)),
        **options(WIDE_WARPS, pdl),
    )
    return out, finite
