"""Triton kernels around FlashInfer's own: page indices, the write of keys and values, and rope with that write.

Grids depend on shapes alone and nothing is read but the tensors given, so that all of them may be captured.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sglcore_plugin_flashinfer.latent_kernels import write_latent

ROWS_BLOCK = 1024  # rows whose pages are counted at once
PAGES_BLOCK = 1024  # pages of a row copied at once
HEADS_BLOCK = 8  # heads of a token in one program


@triton.jit
def fill_indices_kernel(
    kv_lens,  # int32 [rows]
    page_table,  # int32 [rows, width]
    indices,  # int32, the pages of all rows one after the other
    width,  # row stride of page_table
    PAGE: tl.constexpr,
    ROWS: tl.constexpr,
    PAGES: tl.constexpr,
):
    row = tl.program_id(0)
    before = 0
    for first in range(0, row, ROWS):
        at = first + tl.arange(0, ROWS)
        length = tl.load(kv_lens + at, mask=at < row, other=0)
        before += tl.sum((length + PAGE - 1) // PAGE)
    count = (tl.load(kv_lens + row) + PAGE - 1) // PAGE
    for first in range(0, count, PAGES):
        at = first + tl.arange(0, PAGES)
        page = tl.load(page_table + row.to(tl.int64) * width + at, mask=at < count, other=0)
        tl.store(indices + before + at, page, mask=at < count)


@triton.jit
def write_kv_kernel(
    k,  # [tokens, kv_heads, dim], any stride of tokens and heads
    v,
    keys,  # [pages, page_size, kv_heads, dim]
    values,
    slots,  # int64 [tokens]
    k_token,  # strides, in values
    k_head,
    v_token,
    v_head,
    page_stride,
    slot_stride,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, WIDTH)[None, :]
    mask = (head < KV_HEADS) & (at < DIM)
    slot = tl.load(slots + token)
    place = (slot // PAGE) * page_stride + (slot % PAGE) * slot_stride + head * DIM + at
    key = tl.load(k + token * k_token + head * k_head + at, mask=mask)
    value = tl.load(v + token * v_token + head * v_head + at, mask=mask)
    tl.store(keys + place, key.to(keys.dtype.element_ty), mask=mask)
    tl.store(values + place, value.to(values.dtype.element_ty), mask=mask)


@triton.jit
def _normed(x, inverse, q_weight, k_weight, at, mask, is_q, normalise):
    """x scaled by its head's inverse root mean square and weight, rounded where the reference rounds."""
    dtype = x.dtype
    weight_q = tl.load(q_weight + at, mask=mask, other=0.0).to(tl.float32)
    weight_k = tl.load(k_weight + at, mask=mask, other=0.0).to(tl.float32)
    scaled = (x.to(tl.float32) * inverse).to(dtype).to(tl.float32)
    scaled = (scaled * tl.where(is_q, weight_q, weight_k)).to(dtype)
    return tl.where(normalise, scaled, x)


@triton.jit
def _put(
    x,
    q_out,
    keys,
    values,
    row,
    token,
    head,
    at,
    mask,
    place,
    Q: tl.constexpr,
    KV: tl.constexpr,
    DIM: tl.constexpr,
    KEEP: tl.constexpr,
):
    """One tile of heads to where its queries, keys and values belong; with KEEP the keys back to `row` as well."""
    to_q = mask & (head < Q)
    to_k = mask & (head >= Q) & (head < Q + KV)
    to_v = mask & (head >= Q + KV)
    tl.store(q_out + token * (Q * DIM) + head * DIM + at, x, mask=to_q)
    tl.store(keys + place + (head - Q) * DIM + at, x.to(keys.dtype.element_ty), mask=to_k)
    tl.store(values + place + (head - Q - KV) * DIM + at, x.to(values.dtype.element_ty), mask=to_v)
    if KEEP:
        tl.store(row + at, x, mask=to_k)


@triton.jit
def rope_write_kernel(
    qkv,  # [tokens, Q + 2 KV, DIM], any stride of tokens
    cos,  # float32 [tokens, HALF], contiguous
    sin,
    q_out,  # [tokens, Q, DIM], contiguous
    keys,  # [pages, page_size, KV, DIM]
    values,
    slots,  # int64 [tokens]
    q_weight,  # [DIM]; read where NORM_Q
    k_weight,  # [DIM]; read where NORM_K
    eps,
    qkv_token,  # strides, in values
    page_stride,
    slot_stride,
    Q: tl.constexpr,
    KV: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    PAGE: tl.constexpr,
    NORM_Q: tl.constexpr,
    NORM_K: tl.constexpr,
    KEEP: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,  # power of two >= HALF
    REST: tl.constexpr,  # power of two >= DIM - 2 HALF; 0 where that is 0
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, WIDTH)[None, :]
    there = head < Q + 2 * KV
    mask = there & (at < HALF)
    row = qkv + token * qkv_token + head * DIM
    a = tl.load(row + at, mask=mask, other=0.0)
    b = tl.load(row + HALF + at, mask=mask, other=0.0)
    rest_at = 2 * HALF + tl.arange(0, REST if REST > 0 else 1)[None, :]
    rest_mask = there & (rest_at < DIM)
    rest = tl.load(row + rest_at, mask=rest_mask, other=0.0)
    slot = tl.load(slots + token)
    place = (slot // PAGE) * page_stride + (slot % PAGE) * slot_stride
    is_q, is_v = head < Q, head >= Q + KV
    if NORM_Q or NORM_K:
        wide_a, wide_b, wide_rest = a.to(tl.float32), b.to(tl.float32), rest.to(tl.float32)
        square = tl.sum(wide_a * wide_a + wide_b * wide_b, 1) + tl.sum(wide_rest * wide_rest, 1)
        inverse = tl.rsqrt(square / DIM + eps)[:, None]
        normalise = (is_q & NORM_Q) | ((head >= Q) & (head < Q + KV) & NORM_K)
        a = _normed(a, inverse, q_weight, k_weight, at, at < HALF, is_q, normalise)
        b = _normed(b, inverse, q_weight, k_weight, HALF + at, at < HALF, is_q, normalise)
        if REST > 0:
            rest = _normed(rest, inverse, q_weight, k_weight, rest_at, rest_at < DIM, is_q, normalise)
    c = tl.load(cos + token * HALF + at, mask=at < HALF, other=0.0)
    s = tl.load(sin + token * HALF + at, mask=at < HALF, other=0.0)
    wide_a, wide_b = a.to(tl.float32), b.to(tl.float32)
    turned_a = tl.where(is_v, a, (wide_a * c - wide_b * s).to(a.dtype))
    turned_b = tl.where(is_v, b, (wide_b * c + wide_a * s).to(b.dtype))
    _put(turned_a, q_out, keys, values, row, token, head, at, mask, place, Q, KV, DIM, KEEP)
    _put(turned_b, q_out, keys, values, row, token, head, HALF + at, mask, place, Q, KV, DIM, KEEP)
    if REST > 0:
        _put(rest, q_out, keys, values, row, token, head, rest_at, rest_mask, place, Q, KV, DIM, KEEP)


class TritonKernels:
    """The launches. Shapes and strides come from the tensors; nothing waits for the device."""

    write_latent = staticmethod(write_latent)

    def fill_indices(
        self, kv_lens: torch.Tensor, page_table: torch.Tensor, page_size: int, indices: torch.Tensor
    ) -> None:
        """Write each row's ceil(kv_lens / page_size) pages, rows one after the other, to the front of `indices`.

        kv_lens int32 [rows], page_table int32 [rows, width], indices int32, long enough.
        """
        fill_indices_kernel[(kv_lens.shape[0],)](
            kv_lens, page_table, indices, page_table.stride(0), page_size, ROWS_BLOCK, PAGES_BLOCK
        )

    def write_kv(
        self, k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor
    ) -> None:
        """k, v [tokens, kv_heads, dim] to their slots of keys, values [pages, page_size, kv_heads, dim]."""
        tokens, kv_heads, dim = k.shape
        heads = min(HEADS_BLOCK, triton.next_power_of_2(kv_heads))
        strides = (k.stride(0), k.stride(1), v.stride(0), v.stride(1), keys.stride(0), keys.stride(1))
        write_kv_kernel[(tokens, triton.cdiv(kv_heads, heads))](
            k, v, keys, values, slots, *strides, kv_heads, dim, keys.shape[1], heads, triton.next_power_of_2(dim)
        )

    def rope_write(
        self,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        heads: int,
        pool: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        norms: tuple[torch.Tensor | None, torch.Tensor | None],
        eps: float,
        *,
        keep: bool = False,
    ) -> torch.Tensor:
        """See `contracts.RopeWriter`: pool is the layer's keys and values, norms the weights of q and k.

        keep: the rotated keys are written over the others in `qkv` too.
        """
        tokens, total, dim = qkv.shape
        half = cos.shape[1]
        keys, values = pool
        q = torch.empty((tokens, heads, dim), dtype=qkv.dtype, device=qkv.device)
        q_weight, k_weight = (cos if weight is None else weight for weight in norms)  # a pointer that is not read
        if norms[0] is None and norms[1] is not None:
            q_weight = k_weight
        elif norms[1] is None and norms[0] is not None:
            k_weight = q_weight
        flags: tuple[Any, ...] = (norms[0] is not None, norms[1] is not None, keep)
        block = min(HEADS_BLOCK, triton.next_power_of_2(total))
        rest = dim - 2 * half
        rope_write_kernel[(tokens, triton.cdiv(total, block))](
            *(qkv, cos, sin, q, keys, values, slots, q_weight, k_weight, eps),
            *(qkv.stride(0), keys.stride(0), keys.stride(1)),
            *(heads, (total - heads) // 2, dim, half, keys.shape[1], *flags),
            *(block, triton.next_power_of_2(half), triton.next_power_of_2(rest) if rest else 0),
        )
        return q
