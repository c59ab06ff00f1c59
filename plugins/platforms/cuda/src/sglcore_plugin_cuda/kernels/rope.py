"""Rotary embedding (Su et al., arXiv:2104.09864) of queries and keys in one kernel, halves rotated in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.launch import follow, options, warps_for

MOST_HEADS = 16  # heads of a token that one program turns


@triton.jit
def _rope(  # type: ignore[no-untyped-def]
    q,
    k,
    cos,
    sin,
    q_out,
    k_out,
    q_token,
    q_head,
    k_token,
    k_head,
    table_stride,
    heads,
    kv_heads,
    half,
    dim,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    follow(PDL)
    column = tl.arange(0, HALF)
    inside = column < half
    c = tl.load(cos + token * table_stride + column, mask=inside, other=0.0)[None, :]
    s = tl.load(sin + token * table_stride + column, mask=inside, other=0.0)[None, :]
    # the heads of q come first, those of k after them; a head takes part in just one of the two
    of_q, of_k = head < heads, (head >= heads) & (head < heads + kv_heads)
    q_at = q + token * q_token + (head * q_head)[:, None]
    k_at = k + token * k_token + ((head - heads) * k_head)[:, None]
    q_to = q_out + ((token * heads + head) * dim)[:, None]
    k_to = k_out + ((token * kv_heads + head - heads) * dim)[:, None]
    _turn(q_at, q_to, of_q[:, None], c, s, column[None, :], half, dim, REST)
    _turn(k_at, k_to, of_k[:, None], c, s, column[None, :], half, dim, REST)


@triton.jit
def _turn(  # type: ignore[no-untyped-def]
    start, to, live, c, s, column, half, dim, REST: tl.constexpr
):
    """Heads at `start` [heads, 1] to `to`; `live` [heads, 1] says which."""
    mask = live & (column < half)
    a = tl.load(start + column, mask=mask, other=0.0)
    b = tl.load(start + half + column, mask=mask, other=0.0)
    wide_a, wide_b = a.to(tl.float32), b.to(tl.float32)
    tl.store(to + column, (wide_a * c - wide_b * s).to(a.dtype), mask=mask)
    tl.store(to + half + column, (wide_b * c + wide_a * s).to(a.dtype), mask=mask)
    if REST > 0:
        past = 2 * half + tl.arange(0, REST)[None, :]
        mask = live & (past < dim)
        tl.store(to + past, tl.load(start + past, mask=mask, other=0.0), mask=mask)


def rope(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, pdl: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """q [tokens, heads, dim], k [tokens, kv_heads, dim], dim contiguous; cos, sin float32 [tokens, rotary_dim / 2].

    Two new tensors. Dimensions past rotary_dim are copied.
    """
    tokens, heads, dim = q.shape
    kv_heads, half = k.shape[1], cos.shape[1]
    turned_q = torch.empty((tokens, heads, dim), dtype=q.dtype, device=q.device)
    turned_k = torch.empty((tokens, kv_heads, dim), dtype=k.dtype, device=k.device)
    rest = dim - 2 * half
    at_once = min(MOST_HEADS, triton.next_power_of_2(heads + kv_heads))
    padded = triton.next_power_of_2(half)
    if sin.stride(0) != cos.stride(0):
        cos, sin = cos.contiguous(), sin.contiguous()
    _rope[(tokens, triton.cdiv(heads + kv_heads, at_once))](
        q,
        k,
        cos,
        sin,
        turned_q,
        turned_k,
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        cos.stride(0),
        heads,
        kv_heads,
        half,
        dim,
        HEADS=at_once,
        HALF=padded,
        REST=triton.next_power_of_2(rest) if rest else 0,
        **options(warps_for(at_once * padded), pdl),
    )
    return turned_q, turned_k
