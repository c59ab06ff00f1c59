"""Planner: which rows compute how many tokens in the next step, and who steps aside when pages run out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sglcore.request import Branch
from sglcore.scheduler.changes import Chunks
from sglcore.scheduler.pressure import NewTokenRatio, cheapest, fit_by_seniority
from sglcore.scheduler.priority import Preemption
from sglcore.scheduler.seats import Seats

SMALLEST_CHUNK = 16


class Planner:
    """Decoding rows first, a token each; then prompts that are half done, oldest first; then waiting branches."""

    def __init__(
        self, seats: Seats, ratio: NewTokenRatio, preemption: Preemption, chunk: int, on_seat: Callable[[Branch], None]
    ) -> None:
        self.seats = seats
        self.rows = seats.rows
        self.queue = seats.queue
        self.ratio = ratio
        self.preemption = preemption
        self.chunk = chunk
        self.on_seat = on_seat
        self.retracted = 0

    def shrink(self, tokens: int) -> bool:
        """Plan smaller steps from now on than one of so many tokens; False if they are as small as they get."""
        smaller = min(self.chunk, tokens) // 2
        if smaller < SMALLEST_CHUNK:
            return False
        self.chunk = smaller
        return True

    def decode(self) -> np.ndarray:
        """int32 [rows]: the rows that take a token, each with a page for it."""
        t, ledger = self.rows, self.seats.ledger
        ready = t.active & (t.planned >= t.prefill_end) & (t.planned < t.target) & (t.target < t.limit)
        rows = np.flatnonzero(ready).astype(np.int32)
        while len(rows):
            pages = ledger.reserve(rows, t.planned[rows] + 1)
            if pages is not None:
                self.seats.changes.new_pages.append(pages)
                break
            rows = self._relieve(rows)
        self.ratio.step()
        return rows

    def _relieve(self, rows: np.ndarray) -> np.ndarray:
        """Pages ran out: retract the cheapest row, or, while it is in flight, let the youngest rows wait a step."""
        seats, seniority = self.seats, self.seats.seniority
        victim = cheapest(self.rows, seniority)
        if victim is None and not self.rows.in_flight.any():
            # Alone, and still short: beside its own pages it locks the tree's copies of the same tokens. Seated
            # again it reads those, and gets on by a token at least.
            victim = int(rows[0])
        if victim is not None:
            self.ratio.raise_up()
            self.retracted += 1
            seats.retract(victim)
            if seats.taken[victim] is None:
                return rows[rows != victim]
        rows = rows[self.rows.active[rows]]
        return fit_by_seniority(rows, seniority, self.rows, seats.ledger)

    def prefill(self) -> Chunks:
        """(row, prompt tokens) of this step, for as long as the budget of `chunk` tokens lasts."""
        t, budget = self.rows, self.chunk
        chunks: Chunks = []
        unfinished = np.flatnonzero(t.active & (t.planned < t.prefill_end))
        if len(unfinished):
            for row in unfinished[np.argsort(self.seats.seniority[unfinished])].tolist():
                if budget <= 0:
                    return chunks
                budget -= self._chunk(row, budget, chunks)
        if budget <= 0 or not t.free_seats or not len(self.queue):
            return chunks
        kept_back = self.ratio.reserve(t)
        for branch in self.queue.candidates(self.seats.taken):
            if not self.seats.take(branch, kept_back // self.seats.ledger.page_size):
                break
            self.on_seat(branch)
            kept_back += self.ratio.reserve_row(t, branch.row)
            budget -= self._chunk(branch.row, budget, chunks)
            if budget <= 0 or not t.free_seats:
                break
        return chunks

    def _chunk(self, row: int, budget: int, chunks: Chunks) -> int:
        count = min(budget, int(self.rows.prefill_end[row] - self.rows.planned[row]))
        chunks.append((row, count))
        return count
