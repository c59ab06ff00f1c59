"""Torch references of the ops in `contracts.ops`: plain, slow, right on any device. Tests compare against them."""

from __future__ import annotations

import torch


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [tokens, in], weight [out, in], bias [out] -> [tokens, out]."""
    y = x @ weight.t()
    return y if bias is None else y + bias


def embedding(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """ids int64 [tokens], table [vocab, hidden] -> [tokens, hidden]."""
    return table[ids]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; the scaling in float32, then the dtype of x."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(norm(x + residual), x + residual)."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """gate_up [tokens, 2 n] -> silu(first half) * second half."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def rope(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate the first rotary_dim dimensions of each head by halves; cos, sin float32 [tokens, rotary_dim / 2]."""
    return rotate(q, cos, sin), rotate(k, cos, sin)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, dim]: (a, b) -> (a cos - b sin, b cos + a sin), computed in float32."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half].float(), x[..., half : 2 * half].float(), x[..., 2 * half :]
    c, s = cos[:, None], sin[:, None]
    return torch.cat(((a * c - b * s).to(x.dtype), (b * c + a * s).to(x.dtype), rest), dim=-1)


def route(logits: torch.Tensor, k: int, normalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [tokens, experts] -> the k largest of their softmax, float32, and whose they are, int32 [tokens, k].

    normalise: divide the k by their sum. All in float32.
    """
    weights, experts = torch.softmax(logits, -1, dtype=torch.float32).topk(k, -1)
    if normalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts.to(torch.int32)


def moe(
    x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
) -> torch.Tensor:
    """For each token the sum over its experts of weight * down(silu_mul(gate_up(x))), in float32, in the dtype of x.

    x [tokens, hidden], gate_up [experts, 2 inner, hidden], down [experts, hidden, inner], weights float32 and experts
    int32 [tokens, k]. Goes through the experts that are hit, which it must know on the host.
    """
    k = experts.shape[1]
    flat, scale = experts.flatten().long(), weights.float().flatten()
    order = flat.argsort(stable=True)
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    first = 0
    for expert, count in enumerate(flat.bincount(minlength=gate_up.shape[0]).tolist()):
        if count:
            pairs = order[first : first + count]
            tokens = pairs // k
            inner = silu_mul(linear(x[tokens], gate_up[expert], None))
            result = linear(inner, down[expert], None).float() * scale[pairs, None]
            total.index_add_(0, tokens, result)
            first += count
    return total.to(x.dtype)


def draw(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    min_p: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `contracts.ops.FusedOps.draw`: (tokens int64 [rows], whether all logits were finite bool [rows])."""
    hot = temperature > 0
    scores = logits / torch.where(hot, temperature, 1.0)[:, None]
    least = scores.amax(-1, keepdim=True) + min_p.log()[:, None]
    noisy = (scores + gumbel(seed, position, logits.shape[-1])).masked_fill(scores < least, float("-inf"))
    return torch.where(hot, noisy.argmax(-1), logits.argmax(-1)), torch.isfinite(logits).all(-1)


def penalise(
    logits: torch.Tensor,
    places: torch.Tensor,
    rules: torch.Tensor,
    counts: torch.Tensor,
    prompt: torch.Tensor,
    bias: torch.Tensor,
) -> None:
    """See `contracts.ops.FusedOps.penalise`: repetition, frequency, presence and bias of the rows at `places`."""
    for (row, slot, biased), (frequency, presence, repetition) in zip(places.t().tolist(), rules, strict=True):
        line, count = logits[row], counts[slot]
        seen = prompt[slot] | (count > 0)
        line[seen] = torch.where(line > 0, line / repetition, line * repetition)[seen]
        line -= count * frequency
        line -= (count > 0) * presence
        line += bias[biased]


def narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x in `dtype`, as keys and values are written to a cache: in eight bits what is past the range becomes its end.

    NaN stays NaN. Without the bound torch makes infinity of it, or NaN where the type has no infinity.
    """
    if dtype.itemsize > 1:
        return x.to(dtype)
    most = torch.finfo(dtype).max
    return x.clamp(-most, most).to(dtype)


def gumbel(seed: torch.Tensor, position: torch.Tensor, vocab: int) -> torch.Tensor:
    """Standard Gumbel noise float32 [rows, vocab] of int64 seeds and positions [rows]; counter-based."""
    return gumbel_at(seed, position, torch.arange(vocab, device=seed.device).expand(len(seed), vocab))


def gumbel_at(seed: torch.Tensor, position: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The noise of tokens `ids` int64 [rows, m] only, float32 [rows, m]. Integers are of 32 bits, without a sign."""
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    key = _mix(low ^ _mix(high) ^ _mix(position * 0x9E3779B1 & 0xFFFFFFFF))
    bits = _mix(_mix(ids ^ 0x5BD1E995) ^ key[:, None])
    uniform = ((bits >> 9).float() + 0.5) * 2.0**-23  # strictly inside (0, 1)
    return -torch.log(-torch.log(uniform))


def _mix(x: torch.Tensor) -> torch.Tensor:
    """32-bit integers in int64, mixed by two rounds of multiply and xor-shift."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)
