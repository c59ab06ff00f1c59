"""A runner without a model: its next token is a function of the whole sequence it was given through pages.

It keeps the real thing's tables (pages, last token) and remembers in each page slot which token was
written there, so a wrong page, a stale row or a skipped position changes the tokens it answers.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from sglcore.batch import Batch, StepResult
from sglcore.builtin.policies import FirstComeFirstServed
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.rows import RowTable
from sglcore.scheduler import Limits, Scheduler

VOCAB = 50


def next_token(tokens: list[int] | np.ndarray, windows: tuple[int, ...] = (0,), seed: int = 0) -> int:
    """The fake model: a hash of what each group can see."""
    seen = [np.asarray(tokens[-w:] if w else tokens, dtype=np.int32).tobytes() for w in windows]
    return zlib.crc32(b"|".join(seen)) % VOCAB


def run_alone(prompt: list[int], new: int, eos: int | None = None, windows: tuple[int, ...] = (0,)) -> list[int]:
    """What a request answers when nothing else exists."""
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(next_token(tokens, windows))
        if tokens[-1] == eos:
            break
    return tokens[len(prompt) :]


class FakeRunner:
    """Executes batches over integer 'KV': slot -> token."""

    def __init__(
        self, rows: int, context: int, pages: tuple[int, ...], page_size: int, windows: tuple[int, ...]
    ) -> None:
        self.page_size = page_size
        self.windows = windows
        self.kv = [np.full(n * page_size, -1, dtype=np.int64) for n in pages]
        self.table = [np.full((rows, -(-context // page_size) + 1), -1, dtype=np.int32) for _ in pages]
        self.last = np.zeros(rows, dtype=np.int32)
        self.bad_rows: set[int] = set()
        self.computed_tokens = 0

    def run(self, batch: Batch) -> StepResult:
        self._apply(batch)
        tokens = np.full((len(batch.rows), 1), -1, dtype=np.int32)
        cursor = 0
        for i, (row, start, count) in enumerate(
            zip(batch.rows.tolist(), batch.starts.tolist(), batch.counts.tolist(), strict=True)
        ):
            if batch.from_table[i]:
                ids = [int(self.last[row])]
            else:
                ids = batch.token_ids[cursor : cursor + count].tolist()
                cursor += count
            self._write(row, start, ids)
            self.computed_tokens += count
            if batch.samples[i]:
                tokens[i, 0] = self.last[row] = self._sample(row, start + count)
        finite = np.array([int(r) not in self.bad_rows for r in batch.rows], dtype=bool)
        return StepResult(tokens, batch.samples.astype(np.int32), finite)

    def _apply(self, batch: Batch) -> None:
        for row in batch.left:
            for table in self.table:
                table[row] = -1
        for entry in batch.entered:
            for g, pages in enumerate(entry.pages):
                self.table[g][entry.row] = -1
                self.table[g][entry.row, : len(pages)] = pages
        for g, (row, index, page) in enumerate(batch.new_pages):
            self.table[g][row, index] = page

    def _slots(self, group: int, row: int, positions: np.ndarray) -> np.ndarray:
        pages = self.table[group][row, positions // self.page_size]
        assert (pages >= 0).all(), "a position without a page was touched"
        return pages * self.page_size + positions % self.page_size

    def _write(self, row: int, start: int, ids: list[int]) -> None:
        for g in range(len(self.kv)):
            self.kv[g][self._slots(g, row, np.arange(start, start + len(ids)))] = ids

    def _sample(self, row: int, length: int) -> int:
        seen = []
        for g, window in enumerate(self.windows):
            first = max(0, length - window) if window else 0
            seen.append(self.kv[g][self._slots(g, row, np.arange(first, length))].astype(np.int32).tobytes())
        return zlib.crc32(b"|".join(seen)) % VOCAB


def build(
    *,
    rows: int = 4,
    context: int = 64,
    pages: int = 64,
    page_size: int = 1,
    chunk: int = 16,
    eos: tuple[int, ...] = (),
    windows: tuple[int, ...] = (0,),
    cache: bool = True,
    policy: object | None = None,
    clock: Callable[[], float] = time.monotonic,
    **limits: Any,
) -> tuple[Scheduler, FakeRunner]:
    """A scheduler and a fake runner over the same geometry; `limits` are fields of Limits."""
    table = RowTable(rows, context, -(-context // page_size) + 1, len(windows))
    ledger = KVLedger([GroupPages(pages, w) for w in windows], page_size, table, cache=cache)
    bounds = Limits(chunk=chunk, vocab_size=VOCAB, **limits)
    scheduler = Scheduler(ledger, table, policy or FirstComeFirstServed(), bounds, eos, clock=clock)
    return scheduler, FakeRunner(rows, context, (pages,) * len(windows), page_size, windows)
