"""Torch references of every op in `contracts.ops.Ops`: plain, slow, right on any device. Tests compare against them."""

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
