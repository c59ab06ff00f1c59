"""What a step's attention needs beside q and the cache: which slots each row reads, in which portions, under what mask.

All of it is the same in every layer, so it is worked out once a step, when the first layer asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from sglcore.contracts.attention import AttentionBatch

CHUNK_BYTES = 4 << 20  # keys of a decode portion, gathered; smaller portions cost more in calls than the cache gains
SPLIT_TOKENS = 256  # padding worth a portion of its own
SPLIT_RATIO = 0.8  # rows below this share of the longest one's length may start a new portion
VIEW_TOKENS = 256  # from this length on, a row whose slots are consecutive is read in place even among others
SLICE_TOKENS = 8  # new tokens from which it pays to look whether they are written to consecutive slots
QUERY_BLOCK = 256  # queries of a prompt that share one masked call


@dataclass(slots=True)
class Span:
    """Slots that one call reads, in order of position: a run starting at `start`, or the entries of `index`."""

    length: int
    start: int = -1
    index: torch.Tensor | None = None  # int64 [rows * length]


@dataclass(slots=True)
class DecodeChunk:
    """Rows with one query each that are attended together, padded to `span.length`.

    tokens: their queries' places, a slice or int64 [rows]. mask: float [rows, 1, 1, length], 0 or -inf, or None
    where no row is padded. A padded place repeats the row's last slot, so that it never reads a foreign page.
    """

    rows: int
    tokens: slice | torch.Tensor
    span: Span
    mask: torch.Tensor | None


@dataclass(slots=True)
class Block:
    """Queries `first` to `last` of a prefill row, against keys `low` to `high` of its span.

    causal: the two ranges coincide and no mask is needed. Otherwise the mask is the lower right corner of a
    triangle, of this block's size.
    """

    first: int
    last: int
    low: int
    high: int
    causal: bool


@dataclass(slots=True)
class PrefillRow:
    """A row with several new tokens: `tokens` of the batch, its slots, and the calls to make."""

    tokens: slice
    span: Span
    blocks: list[Block]


@dataclass(slots=True)
class WindowPlan:
    """How to compute one KV group's attention under one window."""

    tokens: int
    decode: list[DecodeChunk]
    prefill: list[PrefillRow]


@dataclass(slots=True)
class GroupPlan:
    """One KV group's batch, and by window size the plan for it."""

    batch: AttentionBatch
    q_lens: list[int]
    kv_lens: list[int]
    write: slice | torch.Tensor  # where new keys and values go
    windows: dict[int, WindowPlan] = field(default_factory=dict)

    def window(self, size: int) -> WindowPlan:
        """The plan under a window of `size` positions; 0 means all."""
        plan = self.windows.get(size)
        if plan is None:
            plan = self.windows[size] = _plan_window(self, size)
        return plan


def plan_group(batch: AttentionBatch) -> GroupPlan:
    """Read a batch's lengths to the host (no copy where the host knows them) and find where to write."""
    q_lens = batch.q_lens if batch.q_lens_host is None else batch.q_lens_host
    kv_lens = batch.kv_lens if batch.kv_lens_host is None else batch.kv_lens_host
    return GroupPlan(batch, q_lens.tolist(), kv_lens.tolist(), _write_place(batch.slots))


def _write_place(slots: torch.Tensor) -> slice | torch.Tensor:
    """A slice where the slots are consecutive and many: copying to it then beats scattering."""
    if slots.device.type == "cpu" and slots.numel() >= SLICE_TOKENS:
        start = _run_start(slots)
        if start >= 0:
            return slice(start, start + slots.numel())
    return slots


def _run_start(index: torch.Tensor) -> int:
    """First entry of an index that counts up by one, else -1. For CPU tensors; elsewhere it would stall the device."""
    length = index.numel()
    start = int(index[0])
    if length == 1:
        return start
    if int(index[-1]) - start != length - 1:
        return -1
    return start if bool((index[1:] - index[:-1] == 1).all()) else -1


def _plan_window(group: GroupPlan, window: int) -> WindowPlan:
    decode: list[int] = []
    places: list[int] = []
    prefill: list[PrefillRow] = []
    token = 0
    for row, count in enumerate(group.q_lens):
        if count == 1:
            decode.append(row)
            places.append(token)
        elif count > 1:
            prefill.append(_prefill_row(group, row, token, window))
        token += count
    chunks = _decode_chunks(group, decode, places, window) if decode else []
    return WindowPlan(token, chunks, prefill)


def _prefill_row(group: GroupPlan, row: int, token: int, window: int) -> PrefillRow:
    count, total = group.q_lens[row], group.kv_lens[row]
    prefix = total - count
    low = max(0, prefix - window + 1) if window else 0
    span = _row_span(group.batch, row, low, total)
    tokens = slice(token, token + count)
    if prefix == 0 and (window == 0 or window >= total):
        return PrefillRow(tokens, span, [Block(0, count, 0, count, True)])
    blocks = []
    for first in range(0, count, QUERY_BLOCK):
        last = min(count, first + QUERY_BLOCK)
        oldest = max(0, prefix + first - window + 1) if window else 0
        blocks.append(Block(first, last, oldest - low, prefix + last - low, False))
    return PrefillRow(tokens, span, blocks)


def _row_span(batch: AttentionBatch, row: int, low: int, high: int) -> Span:
    """Slots of positions low to high - 1 of one row."""
    size = batch.page_size
    first = low // size
    pages = batch.page_table[row, first : -(-high // size)].to(torch.int64)
    if size == 1:
        index = pages
    else:
        offsets = torch.arange(size, device=pages.device)
        index = (pages[:, None] * size + offsets).view(-1)[low - first * size : high - first * size]
    start = _run_start(index) if index.device.type == "cpu" else -1
    return Span(high - low, start) if start >= 0 else Span(high - low, index=index)


def _decode_chunks(group: GroupPlan, rows: list[int], places: list[int], window: int) -> list[DecodeChunk]:
    lengths = [_seen(group, row, window) for row in rows]
    if len(rows) == 1:
        return [_one_row(group, rows[0], places[0], lengths[0])]
    chunks, order = _in_place(group, rows, places, lengths)
    for portion in _portions([lengths[i] for i in order], _capacity(group.batch)):
        members = [order[i] for i in portion]
        chunks.append(_many_rows(group, [rows[i] for i in members], [places[i] for i in members], window))
    return chunks


def _seen(group: GroupPlan, row: int, window: int) -> int:
    """Positions that a decoding row attends to."""
    return min(group.kv_lens[row], window) if window else group.kv_lens[row]


def _in_place(
    group: GroupPlan, rows: list[int], places: list[int], lengths: list[int]
) -> tuple[list[DecodeChunk], list[int]]:
    """(chunks of long rows whose slots are consecutive, indices of all other rows)."""
    if group.batch.page_table.device.type != "cpu":
        return [], list(range(len(rows)))
    chunks, others = [], []
    for i, length in enumerate(lengths):
        chunk = _one_row(group, rows[i], places[i], length) if length >= VIEW_TOKENS else None
        if chunk is None or chunk.span.start < 0:
            others.append(i)
        else:
            chunks.append(chunk)
    return chunks, others


def _capacity(batch: AttentionBatch) -> int:
    """Slots whose keys make up CHUNK_BYTES, counting four bytes a value."""
    return max(1, CHUNK_BYTES // (4 * batch.group.kv_heads * batch.group.head_dim))


def _portions(lengths: list[int], capacity: int) -> list[list[int]]:
    """Split rows into portions, by index: alike in length where padding would cost more than another call, and
    small enough for `capacity` padded slots. Order is kept where nothing forces a split by length."""
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups, current = [], [order[0]]
    for done, i in enumerate(order[1:], 1):
        longest = lengths[current[0]]
        waste = (longest - lengths[i]) * (len(order) - done)
        if lengths[i] < SPLIT_RATIO * longest and waste > SPLIT_TOKENS:
            groups.append(current)
            current = []
        current.append(i)
    groups.append(current)
    portions: list[list[int]] = []
    for members in groups:
        step = max(1, capacity // lengths[members[0]])
        members.sort()
        portions.extend(members[i : i + step] for i in range(0, len(members), step))
    return portions


def _one_row(group: GroupPlan, row: int, place: int, length: int) -> DecodeChunk:
    total = group.kv_lens[row]
    return DecodeChunk(1, slice(place, place + 1), _row_span(group.batch, row, total - length, total), None)


def _many_rows(group: GroupPlan, rows: list[int], places: list[int], window: int) -> DecodeChunk:
    batch, count = group.batch, len(rows)
    device, size = batch.page_table.device, batch.page_size
    ends = [group.kv_lens[row] for row in rows]
    starts = [max(0, end - window) if window else 0 for end in ends]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    end = torch.tensor(ends, device=device)[:, None]  # [rows, 1]
    position = torch.arange(longest, device=device) + torch.tensor(starts, device=device)[:, None]
    real = torch.minimum(position, end - 1)  # [rows, longest]
    table = batch.page_table[_places(rows, device)]
    page = table.gather(1, real if size == 1 else real // size).to(torch.int64)
    index = page if size == 1 else page * size + real % size
    mask = None
    if any(e - s != longest for s, e in zip(starts, ends, strict=True)):
        mask = torch.zeros(position.shape, device=device).masked_fill_(position >= end, float("-inf"))
        mask = mask.view(count, 1, 1, longest)
    return DecodeChunk(count, _places(places, device), Span(longest, index=index.view(-1)), mask)


def _places(numbers: list[int], device: Any) -> slice | torch.Tensor:
    """A slice where the numbers are consecutive, else int64 [n]."""
    if numbers[-1] - numbers[0] == len(numbers) - 1:  # they rise
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers, device=device)
