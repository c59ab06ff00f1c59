"""WaitingQueue: branches without a seat, in which order they may take one, and how long they may be passed over."""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from sglcore.contracts.policies import Policy
from sglcore.memory.ledger import KVLedger
from sglcore.memory.rows import RowTable
from sglcore.request import Branch
from sglcore.scheduler.wanted import first_owed

# A prefix shorter than this is computed again rather than waited for, but by branches of one request.
SHARE_THRESHOLD = 32
# How many of the queue are looked at in one plan.
LOOKS = 128
# How many later branches may be seated before one that waits, whatever the policy.
OVERTAKES = 256


class WaitingQueue:
    """Ordered by a policy; knows when waiting for a running neighbour's prefix beats computing it twice.

    Fairness is kept here and not by policies: when `overtakes` branches that came later have been seated before the
    one that came first of all that wait, it is next, and nobody passes it any more. Who came after it has been
    overtaken no more often than it, so it is enough to count for the first.
    """

    def __init__(
        self,
        policy: Policy,
        ledger: KVLedger,
        rows: RowTable,
        *,
        overtakes: int = OVERTAKES,
        by_priority: bool = False,
    ) -> None:
        self.policy = policy
        self.ledger = ledger
        self.rows = rows
        self.overtakes = overtakes
        self.by_priority = by_priority
        self.branches: list[Branch] = []  # in order of arrival
        self.tokens = 0  # to be computed for those that wait, what may be cached included
        self._arrivals = 0
        self._passers: list[int] = []  # arrivals later than the first one's that were seated since; sorted

    def __len__(self) -> int:
        return len(self.branches)

    def push(self, branch: Branch) -> None:
        """A new branch."""
        self._arrivals += 1
        branch.arrival = self._arrivals
        self._enter(branch)

    def push_back(self, branch: Branch) -> None:
        """A branch that lost its seat takes the place that its arrival gave it."""
        self._enter(branch)

    def remove(self, branch: Branch) -> None:
        """The branch ended while it waited."""
        self._leave(branch)
        self._forget_passers()

    def seat(self, branch: Branch) -> None:
        """The branch takes a seat; who came before it and still waits was passed."""
        first = self.branches[0]
        branch.passed += len(self._passers) - bisect.bisect_right(self._passers, branch.arrival)
        self._leave(branch)
        if branch is not first:
            bisect.insort(self._passers, branch.arrival)
        self._forget_passers()

    def lowest(self) -> Branch | None:
        """The waiting branch of lowest priority, of those the last to come, whose request never ran; None if there is
        none. A request of which another branch runs is not to be ended for its sake, nor one that ran in an engine
        before this one."""
        fresh = [b for b in self.branches if b.request.asked.resume is None]
        fresh = [b for b in fresh if all(own.cached < 0 for own in b.request.branches)]
        return min(fresh, key=lambda b: (b.priority, -b.arrival)) if fresh else None

    # -- order --

    def candidates(self, seated: list[Branch | None]) -> Iterator[Branch]:
        """Branches that may be seated now, best first. Stop at the first that cannot be.

        Left out are those whose prefix is being computed right now. If the first to have come was passed often enough,
        it is offered next, and nobody after it unless it was seated.
        """
        for branch in self._ordered():
            while self.branches and self._due():
                first = self.branches[0]
                if self._shares(first, seated):
                    return
                yield first
                if first.row < 0:
                    return
            if branch.row < 0 and branch.finish is None and not self._shares(branch, seated):
                yield branch

    def _ordered(self) -> list[Branch]:
        order: Sequence[Branch] = self.policy.order(self.branches, self.matched)
        if len(order) != len(self.branches):  # a policy that forgets a branch must not keep it waiting for ever
            shown = set(map(id, order))
            order = [*order, *(b for b in self.branches if id(b) not in shown)]
        if self.by_priority:
            return heapq.nsmallest(LOOKS, order, key=lambda b: -b.priority)  # among equals the policy's order
        return list(itertools.islice(order, LOOKS))

    def _due(self) -> bool:
        return len(self._passers) >= self.overtakes

    def matched(self, branch: Branch) -> int:
        """Leading tokens of a waiting branch that are cached."""
        return self.ledger.matched(branch.request.asked.namespace, branch.tokens[: usable_prefix(branch)])

    def _shares(self, branch: Branch, seated: list[Branch | None]) -> bool:
        """Whether a row still in prefill will soon put a longer prefix of this branch into the cache."""
        if not self.ledger.cache:
            return False
        table = self.rows
        leaders = np.flatnonzero(table.active & (table.computed < table.prefill_end))
        if not len(leaders):
            return False
        leaders = leaders[table.tokens[leaders, 0] == branch.tokens[0]]
        have = -1
        for row in leaders.tolist():
            leader = seated[row]
            if leader is None or leader.request.asked.namespace != branch.request.asked.namespace:
                continue
            end = min(int(table.prefill_end[row]), usable_prefix(branch))
            differ = np.flatnonzero(table.tokens[row, :end] != branch.tokens[:end])
            common = int(differ[0]) if len(differ) else end
            have = self.matched(branch) if have < 0 else have
            worth = 1 if leader.request is branch.request else SHARE_THRESHOLD
            if common // self.ledger.page_size * self.ledger.page_size - have >= worth:
                return True
        return False

    # -- who waits --

    def _enter(self, branch: Branch) -> None:
        bisect.insort(self.branches, branch, key=lambda b: b.arrival)
        self.tokens += self._cost(branch)

    def _leave(self, branch: Branch) -> None:
        self.branches.remove(branch)
        self.tokens -= self._cost(branch)

    def _cost(self, branch: Branch) -> int:
        """Tokens to compute. Further branches of a request find its prompt in the cache."""
        shared = self.ledger.cache and branch.index > 0 and not branch.retractions
        return 1 if shared else len(branch.tokens)

    def _forget_passers(self) -> None:
        if not self.branches:
            self._passers.clear()
        elif self._passers and self._passers[0] < self.branches[0].arrival:
            del self._passers[: bisect.bisect_left(self._passers, self.branches[0].arrival)]


def usable_prefix(branch: Branch) -> int:
    """How many leading tokens may come from the cache: never the last, whose logits are wanted, nor any
    position whose own result was asked for and is still owed."""
    usable, owed = len(branch.tokens) - 1, first_owed(branch)
    return usable if owed < 0 else min(usable, owed)
