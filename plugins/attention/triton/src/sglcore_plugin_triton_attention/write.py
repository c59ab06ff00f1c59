"""Keys and values to their slots, on the device; with the norm over heads and the rotation before it, in one launch."""

# mypy: allow-incomplete-defs
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _slot(slots, token, page_stride, slot_stride, PAGE: tl.constexpr):
    """(offset of a token's slot in the pool, whether it has one)."""
    slot = tl.load(slots + token)
    return slot // PAGE * page_stride + slot % PAGE * slot_stride, slot >= 0


@triton.jit
def _within(x, most: tl.constexpr):
    return tl.where(x > most, most, tl.where(x < -most, -most, x))


@triton.jit
def narrowed(x, kind: tl.constexpr):
    """x in the pool's type; in eight bits what is past the range becomes its end, and NaN stays NaN."""
    if kind == tl.float8e4nv:
        x = _within(x.to(tl.float32), 448.0)
    elif kind == tl.float8e5:
        x = _within(x.to(tl.float32), 57344.0)
    return x.to(kind)


@triton.jit
def write_kernel(
    k,  # [tokens, kv_heads, DIM], as are v's
    v,
    keys,  # [pages, PAGE, kv_heads, DIM], as are the values
    values,
    slots,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    page_stride,
    slot_stride,
    head_stride,
    kv_heads,
    DIM: tl.constexpr,
    WIDE: tl.constexpr,
    PAGE: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Grid (tokens, blocks of HEADS heads)."""
    token = tl.program_id(0).to(tl.int64)
    to, real = _slot(slots, token, page_stride, slot_stride, PAGE)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    dim = tl.arange(0, WIDE)
    mask = (head < kv_heads)[:, None] & (dim < DIM)[None, :] & real
    to = to + head[:, None] * head_stride + dim[None, :]
    key = tl.load(k + token * k_stride + head[:, None] * k_head_stride + dim[None, :], mask=mask, other=0.0)
    value = tl.load(v + token * v_stride + head[:, None] * v_head_stride + dim[None, :], mask=mask, other=0.0)
    tl.store(keys + to, narrowed(key, keys.dtype.element_ty), mask=mask)
    tl.store(values + to, narrowed(value, values.dtype.element_ty), mask=mask)


@triton.jit
def _scaled(x, root, weight, dim, mask, dtype: tl.constexpr):
    """x / root * weight, rounded to the compute type where `reference.rms_norm` rounds."""
    normed = (x * root[:, None]).to(dtype).to(tl.float32)
    by = tl.load(weight + dim, mask=mask, other=0.0).to(tl.float32)
    return (normed * by[None, :]).to(dtype).to(tl.float32)


@triton.jit
def _turn(
    source,  # of this token, [heads, DIM]
    target,
    cos,  # of this token
    sin,
    weight,
    eps,
    head,
    there,  # which heads are
    target_stride,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    WIDE: tl.constexpr,
    REST: tl.constexpr,
    NORM: tl.constexpr,
):
    """Heads of one token: normed, the first 2 HALF values rotated, the others as they are."""
    dtype = source.dtype.element_ty
    dim = tl.arange(0, WIDE)
    within = dim < HALF
    mask = there[:, None] & within[None, :]
    line = source + head[:, None] * DIM
    a = tl.load(line + dim[None, :], mask=mask, other=0.0).to(tl.float32)
    b = tl.load(line + HALF + dim[None, :], mask=mask, other=0.0).to(tl.float32)
    c = tl.load(cos + dim, mask=within, other=0.0)[None, :]
    s = tl.load(sin + dim, mask=within, other=0.0)[None, :]
    to = target + head[:, None] * target_stride
    if REST > 0:
        tail = 2 * HALF + tl.arange(0, REST)
        tail_mask = there[:, None] & (tail < DIM)[None, :]
        rest = tl.load(line + tail[None, :], mask=tail_mask, other=0.0).to(tl.float32)
    if NORM:
        square = tl.sum(a * a, 1) + tl.sum(b * b, 1)
        if REST > 0:
            square += tl.sum(rest * rest, 1)
        root = tl.rsqrt(square / DIM + eps)
        a = _scaled(a, root, weight, dim, within, dtype)
        b = _scaled(b, root, weight, HALF + dim, within, dtype)
        if REST > 0:
            rest = _scaled(rest, root, weight, tail, tail < DIM, dtype)
    kind = target.dtype.element_ty
    tl.store(to + dim[None, :], narrowed((a * c - b * s).to(dtype), kind), mask=mask)
    tl.store(to + HALF + dim[None, :], narrowed((b * c + a * s).to(dtype), kind), mask=mask)
    if REST > 0:
        tl.store(to + tail[None, :], narrowed(rest.to(dtype), kind), mask=tail_mask)


@triton.jit
def rope_write_kernel(
    qkv,  # [tokens, heads + 2 kv_heads, DIM], dense within a token
    queries,  # [tokens, heads, DIM] contiguous
    keys,  # [pages, PAGE, kv_heads, DIM], as are the values
    values,
    slots,
    cos,  # float32 [tokens, HALF], as is sin
    sin,
    q_norm,
    k_norm,
    eps,
    stride,  # of tokens in qkv
    cos_stride,
    page_stride,
    slot_stride,
    head_stride,
    heads,
    kv_heads,
    DIM: tl.constexpr,
    FULL: tl.constexpr,  # a power of two that holds DIM, HALF and what follows the rotary part: FULL, WIDE, REST
    HALF: tl.constexpr,
    WIDE: tl.constexpr,
    REST: tl.constexpr,
    PAGE: tl.constexpr,
    HEADS: tl.constexpr,
    Q_NORM: tl.constexpr,
    K_NORM: tl.constexpr,
):
    """Grid (tokens, blocks of HEADS query heads, then of key heads, then of value heads)."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    q_blocks = tl.cdiv(heads, HEADS)
    kv_blocks = tl.cdiv(kv_heads, HEADS)
    source = qkv + token * stride
    cos += token * cos_stride
    sin += token * cos_stride
    if block < q_blocks:
        head = block * HEADS + tl.arange(0, HEADS)
        target = queries + token * heads * DIM
        _turn(source, target, cos, sin, q_norm, eps, head, head < heads, DIM, DIM, HALF, WIDE, REST, Q_NORM)
    else:
        to, real = _slot(slots, token, page_stride, slot_stride, PAGE)
        source += heads * DIM
        if block < q_blocks + kv_blocks:
            head = (block - q_blocks) * HEADS + tl.arange(0, HEADS)
            there = (head < kv_heads) & real
            _turn(source, keys + to, cos, sin, k_norm, eps, head, there, head_stride, DIM, HALF, WIDE, REST, K_NORM)
        else:
            head = (block - q_blocks - kv_blocks) * HEADS + tl.arange(0, HEADS)
            dim = tl.arange(0, FULL)
            mask = (head < kv_heads)[:, None] & (dim < DIM)[None, :] & real
            v = tl.load(source + (kv_heads + head)[:, None] * DIM + dim[None, :], mask=mask, other=0.0)
            v = narrowed(v, values.dtype.element_ty)
            tl.store(values + to + head[:, None] * head_stride + dim[None, :], v, mask=mask)
