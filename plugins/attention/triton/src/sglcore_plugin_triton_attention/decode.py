"""Decode on the device: one query a row over its pages, the keys cut into parts that are merged at the end.

A program serves one row and the query heads of one key head; the card is filled by cutting rows into parts, as in
Flash-Decoding (Dao et al., 2023, crfm.stanford.edu/2023/10/12/flashdecoding.html). Which part is whose follows from
the row's length on the device, so that a launch is the same for any lengths and may be captured.
"""

# mypy: allow-incomplete-defs
from __future__ import annotations

import triton
import triton.language as tl

from sglcore_plugin_triton_attention.softmax import capped, fold, places, tile
from sglcore_plugin_triton_attention.tables import LONG

_LONG = tl.constexpr(LONG)
_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def share(length, fill, splits, BLOCK_N: tl.constexpr):
    """(keys in a part, parts) of a row with `length` keys to see; parts are whole tiles, and at least one."""
    wanted = tl.minimum(splits, tl.maximum(fill, tl.cdiv(length, _LONG)))
    chunk = tl.maximum(tl.cdiv(tl.cdiv(length, wanted), BLOCK_N), 1) * BLOCK_N
    return chunk, tl.maximum(tl.cdiv(length, chunk), 1)


@triton.jit
def visible(kv_lens, row, window, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr):
    """(first key that is seen, the start of its tile, end) of a row."""
    kv_len = tl.load(kv_lens + row)
    start = kv_len * 0
    if WINDOW:
        start = tl.maximum(kv_len - window, 0)
    return start, start // BLOCK_N * BLOCK_N, kv_len


@triton.jit(do_not_specialize=["table_stride", "window", "fill", "splits"])
def decode_kernel(
    q,  # [tokens, heads, DIM]
    keys,  # [pages, PAGE, kv_heads, DIM], as are the values
    values,
    out,  # [tokens, heads, DIM] contiguous
    partial,  # float32 [rows, heads, splits, DIM]
    weight,  # float32 [rows, heads, splits]: log2 of the sums
    arrived,  # int32 [rows, key heads x blocks of heads], zero between launches
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
    fill,
    splits,
    GROUP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    DIM: tl.constexpr,
    WIDE: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    FUSED: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Grid (key heads x blocks of heads, rows, splits)."""
    BLOCKS: tl.constexpr = (GROUP + BLOCK_H - 1) // BLOCK_H
    block = tl.program_id(0)
    row = tl.program_id(1)
    part = tl.program_id(2)
    start, low, kv_len = visible(kv_lens, row, window, WINDOW, BLOCK_N)
    high = kv_len
    parts = 1
    if SPLIT:
        chunk, parts = share(kv_len - low, fill, splits, BLOCK_N)
        if part >= parts:
            return
        low += part * chunk
        high = tl.minimum(low + chunk, kv_len)

    kv_head = block // BLOCKS
    of_group = block % BLOCKS * BLOCK_H + tl.arange(0, BLOCK_H)
    real = of_group < GROUP
    head = kv_head * GROUP + of_group
    dim = tl.arange(0, WIDE)
    mask = real[:, None] & (dim < DIM)[None, :]
    row64 = row.to(tl.int64)
    query = tl.load(q + row64 * q_stride + head[:, None] * q_head_stride + dim[None, :], mask=mask, other=0.0)

    peak = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, WIDE], tl.float32)
    if SINKS:  # where there are parts, the merge adds it
        sink = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32) * _LOG2E
        peak = tl.where(parts == 1, sink, peak)
        total = tl.where(parts == 1, 1.0, total)

    table = page_table + row64 * table_stride
    keys += kv_head * head_stride
    values += kv_head * head_stride
    for base in range(low, high, BLOCK_N):
        position = base + tl.arange(0, BLOCK_N)
        inside = (position >= start) & (position < high)
        place = places(table, position, inside, page_stride, slot_stride, PAGE, True)
        k = tile(keys, place, inside, query.dtype, DIM, WIDE, True)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee")
        scale = unit
        if CAPPED:
            scores = capped(scores, unit, outer)
            scale = 1.0
        scores = tl.where(inside[None, :], scores, float("-inf"))
        v = tile(values, place, inside, query.dtype, DIM, WIDE, True)
        acc, total, peak = fold(scores, scale, v, acc, total, peak, False)

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]  # a row without keys, which only pads, gives zeros
    line = row64 * heads + head
    tl.store(out + line[:, None] * DIM + dim[None, :], acc, mask=mask & (parts == 1))
    if parts > 1:  # known while compiling where there is no SPLIT
        at = line * splits + part
        tl.store(partial + at[:, None] * DIM + dim[None, :], acc, mask=mask)
        tl.store(weight + at, peak + tl.log2(total), mask=real)
        if FUSED:
            count = arrived + row * tl.num_programs(0) + block
            tl.debug_barrier()  # all of the program's stores come before its one release
            if tl.atomic_add(count, 1, sem="acq_rel", scope="gpu") == parts - 1:
                tl.store(count, 0)
                merge_parts(partial, weight, out, sinks, row64, kv_head, block % BLOCKS, heads, splits, parts,
                            GROUP, BLOCK_H, DIM, WIDE, SINKS)  # fmt: skip


@triton.jit
def merge_parts(
    partial,
    weight,
    out,
    sinks,
    row,
    kv_head,
    head_block,
    heads,
    splits,
    parts,
    GROUP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    DIM: tl.constexpr,
    WIDE: tl.constexpr,
    SINKS: tl.constexpr,
):
    """The parts of one row and block of heads into `out`, weighted by their sums; loads pass the first cache by."""
    SIDE: tl.constexpr = _side(GROUP, BLOCK_H)
    STEP: tl.constexpr = _step(SIDE, WIDE)
    dim = tl.arange(0, WIDE)
    for first in tl.static_range(0, BLOCK_H, SIDE):
        if first < GROUP:
            of_group = head_block * BLOCK_H + first + tl.arange(0, SIDE)
            real = of_group < GROUP
            head = kv_head * GROUP + of_group
            line = row * heads + head
            peak = tl.full([SIDE], float("-inf"), tl.float32)
            total = tl.zeros([SIDE], tl.float32)
            if SINKS:
                peak = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32) * _LOG2E
                total = tl.full([SIDE], 1.0, tl.float32)
            acc = tl.zeros([SIDE, WIDE], tl.float32)
            for begin in range(0, parts, STEP):
                part = begin + tl.arange(0, STEP)
                mask = real[:, None] & (part < parts)[None, :]
                at = line[:, None] * splits + part[None, :]
                sums = tl.load(weight + at, mask=mask, other=float("-inf"), cache_modifier=".cg")
                results = tl.load(
                    partial + at[:, :, None] * DIM + dim[None, None, :],
                    mask=mask[:, :, None] & (dim < DIM)[None, None, :],
                    other=0.0,
                    cache_modifier=".cg",
                )
                highest = tl.maximum(peak, tl.max(sums, 1))
                anchor = tl.where(highest == float("-inf"), 0.0, highest)  # heads that only pad
                shares = tl.exp2(sums - anchor[:, None])
                shrink = tl.exp2(peak - anchor)
                total = total * shrink + tl.sum(shares, 1)
                acc = acc * shrink[:, None] + tl.sum(results * shares[:, :, None], 1)
                peak = highest
            result = acc / total[:, None]
            store = real[:, None] & (dim < DIM)[None, :]
            tl.store(out + line[:, None] * DIM + dim[None, :], result, mask=store)


@triton.constexpr_function
def _side(group: int, block_h: int) -> int:
    """Heads that are merged at a time: a power of two that wastes few places."""
    side = 1
    while side < min(group, block_h, 16):
        side *= 2
    return side


@triton.constexpr_function
def _step(side: int, wide: int) -> int:
    """Parts that are merged at a time, so that a tile holds 8192 values."""
    return max(1, min(16, 8192 // (side * wide)))


@triton.jit(do_not_specialize=["window", "fill", "splits"])
def merge_kernel(
    partial,
    weight,
    out,
    kv_lens,
    sinks,
    heads,
    window,
    fill,
    splits,
    GROUP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    DIM: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Grid (key heads x blocks of heads, rows): what the last program of a row does where FUSED."""
    BLOCKS: tl.constexpr = (GROUP + BLOCK_H - 1) // BLOCK_H
    block = tl.program_id(0)
    row = tl.program_id(1)
    _, low, kv_len = visible(kv_lens, row, window, WINDOW, BLOCK_N)
    _, parts = share(kv_len - low, fill, splits, BLOCK_N)
    if parts > 1:
        merge_parts(partial, weight, out, sinks, row.to(tl.int64), block // BLOCKS, block % BLOCKS, heads, splits,
                    parts, GROUP, BLOCK_H, DIM, WIDE, SINKS)  # fmt: skip
