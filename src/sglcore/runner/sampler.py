"""Logits to tokens, all rows at once; softmax and sampling in float32.

The order is: temperature, then top-k, top-p over what top-k left, min-p, then the draw. Sampling is argmax of the
remaining scores plus Gumbel noise, which draws exactly from their softmax (Gumbel-max; Maddison, Tarlow, Minka, "A*
Sampling"). The noise is a function of (seed, branch, position, token id) and nothing else, so a seeded request gets the
same tokens in any batch. Whatever a filter's last rank is tied with stays as well: the order of equals says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

# Odd constants of a 32-bit mixing function (two rounds of multiply and xor-shift, after splitmix).
_M1, _M2, _MASK = 0x7FEB352D, 0x846CA68B, 0xFFFFFFFF
CANDIDATES = 1024  # up to so many of the likeliest tokens a row is ranked without sorting its vocabulary
SPARE = 32  # candidates beyond the largest top-k: room for tokens that tie with the last one
FEW = 64  # candidates tried first where only the mass decides, on a CPU
BLOCK = 2**17  # values of noise made at once on a CPU: what stays in its cache

Argmax = Callable[[torch.Tensor], torch.Tensor]


@dataclass(slots=True)
class Draw:
    """Rows that draw in the same way; tensors [n] on the logits' device.

    ranked: top-k or top-p of some row looks at the order of tokens. most: the largest top-k where all have one, else 0.
    """

    rows: torch.Tensor | None  # int64, which of the logits' rows; None: all of them
    temperature: torch.Tensor  # float32, above 0
    seed: torch.Tensor  # int64
    position: torch.Tensor  # int64, of the token to be sampled
    top_k: torch.Tensor  # int64, 0 means all
    top_p: torch.Tensor  # float32
    min_p: torch.Tensor  # float32
    ranked: bool = False
    most: int = 0
    floor: bool = False  # some row has min_p

    def only(self, index: torch.Tensor) -> Draw:
        """Those of the rows, without their place in the logits."""
        names = ("temperature", "seed", "position", "top_k", "top_p", "min_p")
        return replace(self, rows=None, **{name: getattr(self, name)[index] for name in names})


def sample(logits: torch.Tensor, draws: list[Draw], argmax: Argmax, others: torch.Tensor | None = None) -> torch.Tensor:
    """logits float32 [rows, vocab] -> token ids int64 [rows]; rows that no draw names are greedy, or as in `others`.

    Does not change `logits`; `others` may be overwritten. `argmax` is the platform's.
    """
    if len(draws) == 1 and draws[0].rows is None:
        return _draw(logits / draws[0].temperature[:, None], draws[0], argmax)
    best = argmax(logits) if others is None else others
    for draw in draws:
        best[draw.rows] = _draw(logits[draw.rows] / draw.temperature[:, None], draw, argmax)
    return best


def _draw(scores: torch.Tensor, draw: Draw, argmax: Argmax) -> torch.Tensor:
    """scores float32 [n, vocab], may be overwritten -> int64 [n]."""
    vocab = scores.shape[-1]
    if not draw.ranked:
        if draw.floor:
            scores.masked_fill_(scores < scores.amax(-1, keepdim=True) + draw.min_p.log()[:, None], float("-inf"))
        return argmax(scores.add_(gumbel(draw.seed, draw.position, vocab)))
    if draw.most:
        return _pick(*scores.topk(min(draw.most + SPARE, vocab), dim=-1), scores, draw)[0]
    return _draw_by_mass(scores, draw)


def _draw_by_mass(scores: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Ranked rows without a bound on k. A CPU can look whether a few candidates hold the mass; elsewhere that would
    wait for the device, and the vocabulary is sorted."""
    if scores.device.type == "cpu":
        for count in (FEW, CANDIDATES):
            if count < scores.shape[-1]:
                tokens, sure = _pick(*scores.topk(count, dim=-1), scores, draw)
                if sure.all():
                    return tokens
    return _pick(*scores.sort(dim=-1, descending=True), scores, draw)[0]


def _pick(
    values: torch.Tensor, ids: torch.Tensor, scores: torch.Tensor, draw: Draw
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw among candidates [n, m], likeliest first: (token ids [n], whether all that may be drawn were among them)."""
    keep = _kept(values, scores, draw)
    noisy = (values + gumbel_at(draw.seed, draw.position, ids)).masked_fill_(~keep, float("-inf"))
    enough = ~keep[:, -1] & (draw.top_k <= values.shape[-1])
    return ids.gather(-1, noisy.argmax(-1, keepdim=True)).squeeze(-1), enough


def _kept(values: torch.Tensor, scores: torch.Tensor, draw: Draw) -> torch.Tensor:
    """bool [n, m]: what top-k, then top-p, then min-p leave of the candidates; the likeliest always stays."""
    top_k = draw.top_k[:, None]
    last = values.gather(-1, (top_k - 1).clamp(0, values.shape[-1] - 1))
    keep = (top_k == 0) | (values >= last)
    whole = draw.most == 0  # some row's mass is that of the whole vocabulary
    total = torch.where(top_k > 0, values[:, :1], scores.logsumexp(-1, keepdim=True)) if whole else values[:, :1]
    probs = (values - total).exp_().masked_fill_(~keep, 0.0)
    mass = probs.cumsum(-1)
    share = torch.where(top_k > 0, mass[:, -1:], 1.0) * draw.top_p[:, None]
    within = (mass - probs <= share) & keep
    edge = values.gather(-1, (within.sum(-1, keepdim=True) - 1).clamp_(min=0))
    keep &= (values >= edge) | (draw.top_p[:, None] >= 1)
    if draw.floor:
        keep &= values >= values[:, :1] + draw.min_p.log()[:, None]
    return keep


def gumbel(seed: torch.Tensor, position: torch.Tensor, vocab: int) -> torch.Tensor:
    """Gumbel noise float32 [rows, vocab] from int64 seeds and positions, counter-based."""
    token, key = _token_bits(vocab, str(seed.device))[None, :], _key(seed, position)
    if seed.device.type != "cpu" or len(seed) * vocab <= BLOCK:
        return _noise(token ^ key)
    noise = torch.empty((len(seed), vocab), dtype=torch.float32)
    step = max(1, BLOCK // vocab)
    for start in range(0, len(seed), step):
        noise[start : start + step] = _noise(token ^ key[start : start + step])
    return noise


def gumbel_at(seed: torch.Tensor, position: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The same noise at token `ids` int64 [rows, m] only: float32 [rows, m]."""
    return _noise(_mix(ids ^ 0x5BD1E995) ^ _key(seed, position))


def _key(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """int64 [rows, 1]"""
    return _mix((seed & _MASK) ^ _mix((seed >> 32) & _MASK) ^ _mix(position * 0x9E3779B1 & _MASK))[:, None]


@lru_cache(maxsize=4)
def _token_bits(vocab: int, device: str) -> torch.Tensor:
    with torch.inference_mode(False):  # kept for steps to come, whatever mode this one runs in
        return _mix(torch.arange(vocab, device=device, dtype=torch.int64) ^ 0x5BD1E995)


def _noise(bits: torch.Tensor) -> torch.Tensor:
    """int64 of 32 bits, overwritten -> float32"""
    uniform = _mix_(bits).bitwise_right_shift_(9).to(torch.float32).add_(0.5).mul_(2.0**-23)  # strictly inside (0, 1)
    return uniform.log_().neg_().log_().neg_()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """32-bit integers in int64 -> well-mixed 32-bit integers, a new tensor."""
    return _mix_(x.clone())


def _mix_(x: torch.Tensor) -> torch.Tensor:
    x.bitwise_xor_(x >> 16).mul_(_M1).bitwise_and_(_MASK)
    x.bitwise_xor_(x >> 15).mul_(_M2).bitwise_and_(_MASK)
    return x.bitwise_xor_(x >> 16)
