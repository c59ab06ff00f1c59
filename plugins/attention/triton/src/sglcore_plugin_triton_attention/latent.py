"""Latent attention on the device: queries of all heads against one vector a position, which is key and value at once.

The absorbed form of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434). One kernel serves decoding, where a
row is cut into parts as in `decode`, and prompts, where a program holds some tokens of a row times some heads.
"""

# mypy: allow-incomplete-defs
from __future__ import annotations

import triton
import triton.language as tl

from sglcore_plugin_triton_attention.decode import merge_parts, share
from sglcore_plugin_triton_attention.softmax import fold, places, tile
from sglcore_plugin_triton_attention.write import narrowed


@triton.jit
def latent_write_kernel(
    latent,  # [tokens, RANK]
    rope,  # [tokens, ROPE]
    pool,  # [pages, PAGE, 1, RANK + ROPE]
    slots,
    latent_stride,  # of tokens
    rope_stride,
    page_stride,
    slot_stride,
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    RANK_WIDE: tl.constexpr,
    ROPE_WIDE: tl.constexpr,
    PAGE: tl.constexpr,
):
    """Grid (tokens,)."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    to = pool + slot // PAGE * page_stride + slot % PAGE * slot_stride
    at = tl.arange(0, RANK_WIDE)
    mask = (at < RANK) & (slot >= 0)
    value = tl.load(latent + token * latent_stride + at, mask=mask)
    tl.store(to + at, narrowed(value, pool.dtype.element_ty), mask=mask)
    at = tl.arange(0, ROPE_WIDE)
    mask = (at < ROPE) & (slot >= 0)
    value = tl.load(rope + token * rope_stride + at, mask=mask)
    tl.store(to + RANK + at, narrowed(value, pool.dtype.element_ty), mask=mask)


@triton.jit
def _extent(blocks, q_lens, kv_lens, block, BLOCKED: tl.constexpr):
    """(row, its first token in the step, the first token's place in the row, its new tokens, its length) of a block.

    Not BLOCKED: rows with one token each, whose tokens are in the rows' order.
    """
    if BLOCKED:
        entry = blocks + block * 4
        row = tl.load(entry)
        token = tl.load(entry + 1)
        first = tl.load(entry + 2)
        count = tl.load(q_lens + row)
    else:
        row = block
        token = block
        first = block * 0
        count = first + 1
    return row, token, first, count, tl.load(kv_lens + row)


@triton.jit(do_not_specialize=["table_stride", "fill", "splits"])
def latent_kernel(
    q,  # [tokens, heads, RANK]
    q_rope,  # [tokens, heads, ROPE]
    pool,  # [pages, PAGE, 1, RANK + ROPE]
    out,  # [tokens, heads, RANK] contiguous
    partial,  # float32 [rows, heads, splits, RANK]
    weight,  # float32 [rows, heads, splits]: log2 of the sums
    arrived,  # int32 [rows, blocks of heads], zero between launches
    blocks,  # int32 [blocks, 4] as in `GroupPlan.blocks`; read where BLOCKED
    q_lens,
    kv_lens,
    page_table,
    unit,  # log2(e) times the scale
    q_stride,  # of tokens
    q_head_stride,
    rope_stride,
    rope_head_stride,
    page_stride,
    slot_stride,
    table_stride,
    fill,
    splits,
    GROUP: tl.constexpr,  # heads
    HEADS: tl.constexpr,  # of a program, side by side for each of its tokens
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    RANK_WIDE: tl.constexpr,
    ROPE_WIDE: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKED: tl.constexpr,
    SPLIT: tl.constexpr,  # not where BLOCKED
):
    """Grid (blocks of heads, rows or blocks of tokens, splits)."""
    head_block = tl.program_id(0)
    part = tl.program_id(2)
    row, token, first, count, kv_len = _extent(blocks, q_lens, kv_lens, tl.program_id(1), BLOCKED)
    prefix = kv_len - count
    low = kv_len * 0
    high = prefix + tl.minimum(first + BLOCK_M // HEADS, count)
    parts = 1
    if SPLIT:
        chunk, parts = share(kv_len, fill, splits, BLOCK_N)
        if part >= parts:
            return
        low = part * chunk
        high = tl.minimum(low + chunk, kv_len)

    place = tl.arange(0, BLOCK_M)
    offset = first + place // HEADS
    head = head_block * HEADS + place % HEADS
    real = (offset < count) & (head < GROUP)
    newest = prefix + tl.minimum(offset, count - 1)  # the last key that a place sees
    line = token.to(tl.int64) + offset
    at = tl.arange(0, RANK_WIDE)
    mask = real[:, None] & (at < RANK)[None, :]
    query = tl.load(q + (line * q_stride + head * q_head_stride)[:, None] + at[None, :], mask=mask, other=0.0)
    at_rope = tl.arange(0, ROPE_WIDE)
    turned = tl.load(
        q_rope + (line * rope_stride + head * rope_head_stride)[:, None] + at_rope[None, :],
        mask=real[:, None] & (at_rope < ROPE)[None, :],
        other=0.0,
    )

    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, RANK_WIDE], tl.float32)
    table = page_table + row.to(tl.int64) * table_stride
    for base in range(low, high, BLOCK_N):
        position = base + tl.arange(0, BLOCK_N)
        inside = position < high
        where = places(table, position, inside, page_stride, slot_stride, PAGE, True)
        latent = tile(pool, where, inside, query.dtype, RANK, RANK_WIDE, True)
        rotary = tile(pool + RANK, where, inside, query.dtype, ROPE, ROPE_WIDE, True)
        scores = tl.dot(query, tl.trans(latent), input_precision="ieee")
        scores = tl.dot(turned, tl.trans(rotary), scores, input_precision="ieee")
        seen = inside[None, :]
        if BLOCKED:
            seen = seen & (position[None, :] <= newest[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        acc, total, peak = fold(scores, unit, latent, acc, total, peak, False)

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]  # a row without keys, which only pads, gives zeros
    to = line * GROUP + head
    tl.store(out + to[:, None] * RANK + at[None, :], acc, mask=mask & (parts == 1))
    if parts > 1:  # known while compiling where there is no SPLIT
        piece = to * splits + part
        tl.store(partial + piece[:, None] * RANK + at[None, :], acc, mask=mask)
        tl.store(weight + piece, peak + tl.log2(total), mask=real)
        arrival = arrived + row * tl.num_programs(0) + head_block
        tl.debug_barrier()  # all of the program's stores come before its one release
        if tl.atomic_add(arrival, 1, sem="acq_rel", scope="gpu") == parts - 1:
            tl.store(arrival, 0)
            merge_parts(partial, weight, out, q, row.to(tl.int64), 0, head_block, GROUP, splits, parts,
                        GROUP, BLOCK_M, RANK, RANK_WIDE, False)  # fmt: skip
