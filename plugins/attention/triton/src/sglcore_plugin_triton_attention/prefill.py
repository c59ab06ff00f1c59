"""Prompts, chunks and whatever has several new tokens, on the device: ragged rows over their pages.

All keys of a row are in pages, the new ones too, so that one kernel serves prompts, chunks on a prefix, and both at
once. A program holds BLOCK_M places: some tokens of one row, times HEADS heads of one key head's group. Keys before the
first token need no mask; a window's left edge and the causal edge have tiles of their own.
"""

# mypy: allow-incomplete-defs
from __future__ import annotations

import triton
import triton.language as tl

from sglcore_plugin_triton_attention.softmax import capped, fold, places, tile

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _walk(
    query,
    acc,
    total,
    peak,
    low,
    high,
    at,  # position of each place's token
    keys,
    values,
    table,
    page_stride,
    slot_stride,
    unit,
    outer,
    window,
    DIM: tl.constexpr,
    WIDE: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    CAPPED: tl.constexpr,
):
    """Keys from low, which starts a tile, up to high. LEFT: the window's edge may be here; RIGHT: the causal one."""
    for base in range(low, high, BLOCK_N):
        position = base + tl.arange(0, BLOCK_N)
        inside = position < high
        place = places(table, position, inside, page_stride, slot_stride, PAGE, RIGHT)
        k = tile(keys, place, inside, query.dtype, DIM, WIDE, RIGHT)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee")
        scale = unit
        if CAPPED:
            scores = capped(scores, unit, outer)
            scale = 1.0
        if RIGHT:
            scores = tl.where(position[None, :] <= at[:, None], scores, float("-inf"))
        if LEFT:
            scores = tl.where(position[None, :] > at[:, None] - window, scores, float("-inf"))
        v = tile(values, place, inside, query.dtype, DIM, WIDE, RIGHT)
        acc, total, peak = fold(scores, scale, v, acc, total, peak, LEFT)
    return acc, total, peak


@triton.jit(do_not_specialize=["table_stride", "window"])
def prefill_kernel(
    q,  # [tokens, heads, DIM]
    keys,  # [pages, PAGE, kv_heads, DIM], as are the values
    values,
    out,  # [tokens, heads, DIM] contiguous
    blocks,  # int32 [blocks, 4]: row, its first token in the step, the block's first token in the row
    q_lens,
    kv_lens,
    page_table,
    sinks,
    unit,
    outer,
    q_stride,  # of tokens
    q_head_stride,
    page_stride,
    slot_stride,
    head_stride,
    table_stride,
    heads,
    window,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDE: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Grid (key heads x blocks of heads, blocks of tokens)."""
    BLOCKS: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    kv_head = tl.program_id(0) // BLOCKS
    head_block = tl.program_id(0) % BLOCKS
    entry = blocks + tl.program_id(1) * 4
    row = tl.load(entry).to(tl.int64)
    token = tl.load(entry + 1).to(tl.int64)
    first = tl.load(entry + 2)
    q_len = tl.load(q_lens + row)
    kv_len = tl.load(kv_lens + row)
    prefix = kv_len - q_len

    place = tl.arange(0, BLOCK_M)
    offset = first + place // HEADS
    of_group = head_block * HEADS + place % HEADS
    real = (offset < q_len) & (of_group < GROUP)
    head = kv_head * GROUP + of_group
    dim = tl.arange(0, WIDE)
    mask = real[:, None] & (dim < DIM)[None, :]
    line = token + offset
    query = tl.load(q + (line * q_stride + head * q_head_stride)[:, None] + dim[None, :], mask=mask, other=0.0)

    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, WIDE], tl.float32)
    if SINKS:
        peak = tl.load(sinks + head, mask=of_group < GROUP, other=0.0).to(tl.float32) * _LOG2E
        total = tl.full([BLOCK_M], 1.0, tl.float32)

    at = prefix + tl.minimum(offset, q_len - 1)
    oldest = prefix + first
    newest = prefix + tl.minimum(first + BLOCK_M // HEADS, q_len) - 1
    table = page_table + row * table_stride
    keys += kv_head * head_stride
    values += kv_head * head_stride
    low = kv_len * 0
    edge = (oldest + 1) // BLOCK_N * BLOCK_N  # keys before it are behind every token here
    if WINDOW:
        low = tl.maximum(oldest - window + 1, 0) // BLOCK_N * BLOCK_N
        edge = tl.maximum(edge, low)
        open_from = tl.cdiv(tl.maximum(newest - window + 1, 0), BLOCK_N) * BLOCK_N
        open_from = tl.maximum(tl.minimum(open_from, edge), low)
        acc, total, peak = _walk(query, acc, total, peak, low, open_from, at, keys, values, table, page_stride,
                                 slot_stride, unit, outer, window, DIM, WIDE, PAGE, BLOCK_N, True, False,
                                 CAPPED)  # fmt: skip
        low = open_from
    acc, total, peak = _walk(query, acc, total, peak, low, edge, at, keys, values, table, page_stride, slot_stride,
                             unit, outer, window, DIM, WIDE, PAGE, BLOCK_N, False, False, CAPPED)  # fmt: skip
    acc, total, peak = _walk(query, acc, total, peak, edge, newest + 1, at, keys, values, table, page_stride,
                             slot_stride, unit, outer, window, DIM, WIDE, PAGE, BLOCK_N, WINDOW, True,
                             CAPPED)  # fmt: skip

    result = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out + (line * heads + head)[:, None] * DIM + dim[None, :], result, mask=mask)
