"""Seats: which branch sits in which row, from the seat taken with its pages to the last step landed."""

from __future__ import annotations

import numpy as np

from sglcore.memory.ledger import KVLedger
from sglcore.memory.rows import RowTable
from sglcore.request import Branch
from sglcore.scheduler.changes import Changes
from sglcore.scheduler.finish import StopCheck
from sglcore.scheduler.outputs import Stamp
from sglcore.scheduler.queue import WaitingQueue, usable_prefix
from sglcore.scheduler.wanted import row_entry


class Seats:
    """The only writer of `Branch.row` and of the row table's seats.

    A row is active while it is planned for, open while it takes tokens. One that is neither keeps its seat and pages
    until no step that names it is in flight: then it lands, and both are free. `stamps` is for the outputs of each row.
    """

    def __init__(self, ledger: KVLedger, rows: RowTable, queue: WaitingQueue, stop: StopCheck) -> None:
        self.ledger = ledger
        self.rows = rows
        self.queue = queue
        self.stop = stop
        self.taken: list[Branch | None] = [None] * rows.size
        self.stamps: list[Stamp] = [("", 0, 0, 0, 0, 0.0, 0, 0)] * rows.size
        self.changes = Changes(rows, self.taken)
        self.seniority = np.zeros(rows.size, dtype=np.int64)
        self._given = 0

    @property
    def occupied(self) -> int:
        """Rows that hold pages, those that are landing included."""
        return self.rows.size - self.rows.free_seats

    def take(self, branch: Branch, kept_back: int) -> bool:
        """Seat a branch with pages for all it has, if that many are there beside the `kept_back`. False: nothing
        changed but evictions."""
        t = self.rows
        if not t.free_seats:
            return False
        if not self._affordable(branch, kept_back):
            return False
        row = t.seat(branch.tokens)
        asked, usable = branch.request.asked, usable_prefix(branch)
        cached = self.ledger.admit(row, asked.namespace, usable, tenant=asked.tenant, priority=branch.priority)
        prefix = tuple(p[row, : t.num_pages[row]].copy() for p in t.pages)
        pages = self.ledger.reserve_row(row, len(branch.tokens))
        if pages is None:
            self.ledger.release(row, 0)
            t.leave(row)
            return False
        self.queue.seat(branch)
        self._sit(branch, row, cached, prefix)
        self.changes.new_pages.append(pages)
        return True

    def _affordable(self, branch: Branch, kept_back: int) -> bool:
        """Whether the pages it needs are there beside those kept back; for one alone, whether or not."""
        ledger, tokens = self.ledger, len(branch.tokens)
        room = ledger.available() - kept_back
        if ledger.pages_for(tokens) <= room or ledger.pages_for(tokens - self.queue.matched(branch)) <= room:
            return True  # what is cached is looked up only where it matters
        return not self.rows.active.any()

    def _sit(self, branch: Branch, row: int, cached: int, prefix: tuple[np.ndarray, ...]) -> None:
        t, asked = self.rows, branch.request.asked
        t.planned[row] = t.computed[row] = cached
        t.limit[row] = branch.request.prompt_tokens + asked.sampling.max_new_tokens
        self._given += 1
        self.seniority[row] = self._given
        self.stop.seat(row, branch)
        self.taken[row] = branch
        branch.row = row
        self.changes.hidden[row] = asked.return_hidden_states
        self.changes.entered.append(row_entry(branch, row, prefix))

    def retract(self, row: int) -> None:
        """The branch gives its seat up and queues again with the tokens it has; at once, or when its steps landed."""
        branch = self.taken[row]
        assert branch is not None
        self.rows.active[row] = False
        branch.retractions += 1
        self.land(row)

    def close(self, row: int) -> None:
        """The row takes no more tokens."""
        self.rows.active[row] = self.rows.open[row] = False

    def land(self, row: int) -> None:
        """If nothing of this inactive row is in flight any more: free its pages and its seat."""
        branch, t = self.taken[row], self.rows
        if branch is None or t.in_flight[row]:
            return
        broken = branch.finish is not None and branch.finish.type == "error" and branch.finish.status == 500
        self.ledger.release(row, 0 if broken else min(int(t.computed[row]), int(t.length[row])))
        branch.tokens = t.leave(row)
        self.taken[row] = None
        self.changes.left.append(row)
        branch.row = -1
        if branch.finish is None:
            self.queue.push_back(branch)
