"""Priority: what a request's number means, how waiting raises it, and who gives up a seat for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sglcore.errors import RequestError
from sglcore.request import Branch, GenerateRequest

if TYPE_CHECKING:
    from sglcore.scheduler.pressure import NewTokenRatio
    from sglcore.scheduler.queue import WaitingQueue
    from sglcore.scheduler.seats import Seats

LOWEST = -(2.0**31)


@dataclass(frozen=True)
class PriorityRules:
    """The flags.

    enabled: priority goes over the policy's order and may take seats. low_first: the lower number is the higher
    priority. threshold: by how much a waiting request must exceed a running one to take its seat. default: of
    requests that name none; None: the lowest. ageing: seconds of waiting that count as one step of priority, 0: none.
    refuse: whether a request that names a priority is refused while priorities are not enabled.
    """

    enabled: bool = False
    low_first: bool = False
    threshold: int = 10
    default: int | None = None
    ageing: float = 0.0
    refuse: bool = False

    def of(self, asked: GenerateRequest, waited_since: float) -> float:
        """Higher goes first. All that wait age alike, so what counts is when each came: it never has to be renewed."""
        named = self.default if asked.priority is None else asked.priority
        value = LOWEST if named is None else float(-named if self.low_first else named)
        return value - (waited_since / self.ageing if self.ageing else 0.0)

    def check(self, asked: GenerateRequest) -> None:
        """Raises RequestError where a priority is named, is not read, and the server was told to say so."""
        if self.refuse and not self.enabled and asked.priority is not None:
            raise RequestError(
                f"`priority` is {asked.priority}, and this server does not schedule by priority.",
                param="priority",
                remedy="Leave it out, or start the server with --enable-priority-scheduling.",
            )


class Preemption:
    """Before a step is planned: seats and pages for waiting branches whose priority is high enough."""

    def __init__(self, rules: PriorityRules, seats: Seats, queue: WaitingQueue, ratio: NewTokenRatio) -> None:
        self.rules = rules
        self.seats = seats
        self.queue = queue
        self.ratio = ratio

    def make_way(self, budget: int) -> int:
        """Retract rows for the first waiting branches, as many as `budget` prompt tokens allow; returns how many."""
        if not self.rules.enabled or not len(self.queue):
            return 0
        table, taken, retracted = self.seats.rows, self.seats.taken, 0
        landing = sum(branch is not None for branch in taken) - int(table.active.sum())
        if landing:
            return 0  # seats given up in the step before are not free yet
        free, pages = table.free_seats, self.seats.ledger.available() - self._kept_back(())
        for branch in self.queue.candidates(taken):
            new = len(branch.tokens) - self.queue.matched(branch)
            need = self.seats.ledger.pages_for(new)
            if free < 1 or need > pages:
                victims = self._victims(branch, need - pages, free < 1)
                if not victims:
                    break
                pages += self._gain(victims)
                for row in victims:
                    self.seats.retract(row)
                free += len(victims)
                retracted += len(victims)
            free, pages, budget = free - 1, pages - need, budget - new
            if budget <= 0:
                break
        return retracted

    def _victims(self, branch: Branch, shortage: int, seat: bool) -> list[int]:
        """Rows of low enough priority, the lowest and youngest first, until pages and seat suffice; else none."""
        chosen: list[int] = []
        for row in self._weaker(branch):
            if self._gain(chosen) >= shortage and not (seat and not chosen):
                break
            chosen.append(row)
        return chosen if self._gain(chosen) >= shortage and (chosen or not seat) else []

    def _weaker(self, branch: Branch) -> list[int]:
        """Rows that `branch` may take the seat of, the first to go first."""
        seats, weak = self.seats, []
        for row in np.flatnonzero(seats.rows.active).tolist():
            own = seats.taken[row]
            assert own is not None
            ahead = branch.priority - own.priority
            if ahead > 0 and ahead >= self.rules.threshold and own.passed < self.queue.overtakes:
                weak.append((own.priority, -int(seats.seniority[row]), row))
        return [row for _, _, row in sorted(weak)]

    def _gain(self, rows: list[int]) -> int:
        """Pages that come free, or can be evicted, when these rows are retracted, and those kept back for them."""
        return int(self.seats.rows.num_pages[rows].sum()) + self._kept_back(rows) if rows else 0

    def _kept_back(self, rows: Sequence[int]) -> int:
        """Pages that admission keeps free for these rows (no rows: for all)."""
        return self.ratio.reserve(self.seats.rows, rows) // self.seats.ledger.page_size
