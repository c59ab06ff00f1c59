"""Penalties and biases of the rows that have some, in one pass over their counts.

What is read of a row whole is its counts (four bytes a token), the marks of its prompt where it has a repetition
penalty, and its biases where it has any; the logits only of the tokens that one of them touches, which are few.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.launch import follow, options

BLOCK = 2048  # tokens of a program
WARPS = 4


@triton.jit(do_not_specialize=["rows"])
def _penalise(  # type: ignore[no-untyped-def]
    logits, places, rules, counts, prompt, bias, stride, vocab, rows, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    """Grid (rows, blocks of tokens)."""
    number = tl.program_id(0)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab
    follow(PDL)
    row, slot = tl.load(places + number), tl.load(places + rows + number)
    biased = tl.load(places + 2 * rows + number)
    frequency, presence = tl.load(rules + 3 * number), tl.load(rules + 3 * number + 1)
    repetition = tl.load(rules + 3 * number + 2)
    count = tl.zeros([BLOCK], tl.int32)  # what slot 0 holds, which is not read
    added = tl.zeros([BLOCK], tl.float32)
    seen = count > 0
    if slot > 0:
        count = tl.load(counts + slot * vocab + token, mask=inside, other=0)
        seen = count > 0
        if repetition != 1.0:
            seen |= tl.load(prompt + slot * vocab + token, mask=inside, other=0) != 0
    if biased > 0:
        added = tl.load(bias + biased * vocab + token, mask=inside, other=0.0)
    touched = seen | (added != 0.0)
    at = logits + row * stride + token
    logit = tl.load(at, mask=touched, other=0.0)
    scaled = tl.where(logit > 0, tl.math.div_rn(logit, repetition), logit * repetition)
    logit = tl.where(seen, scaled, logit)
    logit = logit - count.to(tl.float32) * frequency
    logit = logit - tl.where(count > 0, presence, 0.0) + added
    tl.store(at, logit, mask=touched)


def penalise(
    logits: torch.Tensor,
    places: torch.Tensor,
    rules: torch.Tensor,
    counts: torch.Tensor,
    prompt: torch.Tensor,
    bias: torch.Tensor,
    *,
    pdl: bool = False,
) -> None:
    """See `contracts.ops.FusedOps.penalise`. places, rules and the tables contiguous, logits within a row."""
    rows, vocab = rules.shape[0], logits.shape[1]
    if rows:
        _penalise[(rows, triton.cdiv(vocab, BLOCK))](
            logits,
            places,
            rules,
            counts,
            prompt.view(torch.uint8),
            bias,
            logits.stride(0),
            vocab,
            rows,
            BLOCK=BLOCK,
            enable_fp_fusion=False,  # each step is rounded, as where they are taken one by one
            **options(WARPS, pdl),
        )
