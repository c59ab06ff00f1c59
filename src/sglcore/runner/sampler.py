"""Logits to tokens, all rows at once; softmax and sampling in float32.

Sampling is argmax of the filtered, temperature-scaled logits plus Gumbel noise, which draws exactly
from their softmax (Gumbel-max; Maddison, Tarlow, Minka, "A* Sampling"). The noise is a function of (seed, branch,
position, token id) and nothing else, so a seeded request gets the same tokens in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sglcore.request import TokenLogprobs

# Odd constants of a 32-bit mixing function (two rounds of multiply and xor-shift, after splitmix).
_M1, _M2, _MASK = 0x7FEB352D, 0x846CA68B, 0xFFFFFFFF


@dataclass(slots=True)
class SamplingBatch:
    """How each of the rows samples; tensors [rows] on the logits' device."""

    temperature: torch.Tensor  # float32, 0 means greedy
    top_k: torch.Tensor  # int64, 0 means all
    top_p: torch.Tensor  # float32
    min_p: torch.Tensor  # float32
    seed: torch.Tensor  # int64
    position: torch.Tensor  # int64, of the token to be sampled
    greedy: bool  # no row samples
    filtered: bool  # some row has top_k, top_p or min_p


def sample(logits: torch.Tensor, how: SamplingBatch, argmax: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """logits float32 [rows, vocab] -> token ids int64 [rows]. Does not change `logits`. `argmax` is the platform's."""
    best = argmax(logits)
    if how.greedy:
        return best
    draws = torch.nonzero(how.temperature > 0).squeeze(-1)
    scores = logits[draws] / how.temperature[draws, None]
    if how.filtered:
        scores = _filter(scores, how.top_k[draws], how.top_p[draws], how.min_p[draws])
    scores = scores + gumbel(how.seed[draws], how.position[draws], logits.shape[-1])
    best[draws] = argmax(scores)
    return best


def _filter(scores: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Set to -inf what top-k, then top-p, then min-p exclude; the likeliest token always stays. [rows, vocab]"""
    ordered, index = scores.sort(dim=-1, descending=True)
    probs = ordered.softmax(-1)
    rank = torch.arange(scores.shape[-1], device=scores.device)
    drop = (top_k[:, None] > 0) & (rank >= top_k[:, None])
    probs = probs.masked_fill(drop, 0.0)
    probs = probs / probs.sum(-1, keepdim=True)
    drop |= probs.cumsum(-1) - probs > top_p[:, None]  # mass before this token already exceeds p
    drop |= probs < probs[:, :1] * min_p[:, None]
    drop[:, 0] = False
    return scores.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), float("-inf"))


def gumbel(seed: torch.Tensor, position: torch.Tensor, vocab: int) -> torch.Tensor:
    """Gumbel noise float32 [rows, vocab] from int64 seeds and positions, counter-based."""
    key = _mix((seed & _MASK) ^ _mix((seed >> 32) & _MASK) ^ _mix(position * 0x9E3779B1 & _MASK))
    token = torch.arange(vocab, device=seed.device, dtype=torch.int64)
    bits = _mix(_mix(token ^ 0x5BD1E995)[None, :] ^ key[:, None])
    uniform = ((bits >> 9).to(torch.float32) + 0.5) * 2.0**-23  # strictly inside (0, 1)
    return -torch.log(-torch.log(uniform))


def _mix(x: torch.Tensor) -> torch.Tensor:
    """32-bit integers in int64 -> well-mixed 32-bit integers."""
    x = ((x ^ (x >> 16)) * _M1) & _MASK
    x = ((x ^ (x >> 15)) * _M2) & _MASK
    return x ^ (x >> 16)


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> list[TokenLogprobs]:
    """Log-softmax of the raw logits float32 [n, vocab] at `tokens` int64 [n], with the `top` likeliest of each."""
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(-1, tokens[:, None]).squeeze(-1).tolist()
    ids = tokens.tolist()
    if top <= 0:
        return [TokenLogprobs(lp, t) for lp, t in zip(chosen, ids, strict=True)]
    values, indices = logprobs.topk(min(top, logits.shape[-1]), dim=-1)
    tops = [list(zip(v, i, strict=True)) for v, i in zip(values.tolist(), indices.tolist(), strict=True)]
    return [TokenLogprobs(lp, t, best) for lp, t, best in zip(chosen, ids, tops, strict=True)]
