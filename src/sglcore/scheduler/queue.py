"""WaitingQueue: branches without a seat, and which of them may take one now."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from sglcore.contracts.policies import Policy
from sglcore.memory.ledger import KVLedger
from sglcore.memory.rows import RowTable
from sglcore.request import Branch

# A prefix shorter than this is computed again rather than waited for.
SHARE_THRESHOLD = 32
# How many of the queue are looked at in one plan.
LOOKS = 128


class WaitingQueue:
    """Ordered by a policy; knows when waiting for a running neighbour's prefix beats computing it twice."""

    def __init__(self, policy: Policy, ledger: KVLedger, rows: RowTable) -> None:
        self.policy = policy
        self.ledger = ledger
        self.rows = rows
        self.branches: list[Branch] = []

    def __len__(self) -> int:
        return len(self.branches)

    def push(self, branch: Branch) -> None:
        """A new branch, last in line before the policy speaks."""
        self.branches.append(branch)

    def push_back(self, branch: Branch) -> None:
        """A retracted branch, first in line before the policy speaks."""
        self.branches.insert(0, branch)

    def remove(self, branch: Branch) -> None:
        """The branch was seated or aborted."""
        self.branches.remove(branch)

    def candidates(self, seated: list[Branch | None]) -> Iterator[Branch]:
        """Branches in the policy's order, those left out whose prefix is being computed right now."""
        for branch in list(itertools.islice(self.policy.order(self.branches, self.matched), LOOKS)):
            if not self._shares(branch, seated):
                yield branch

    def matched(self, branch: Branch) -> int:
        """Leading tokens of a waiting branch that are cached."""
        return self.ledger.matched(branch.request.asked.namespace, branch.tokens[: usable_prefix(branch)])

    def _shares(self, branch: Branch, seated: list[Branch | None]) -> bool:
        """Whether a row still in prefill will soon put a longer prefix of this branch into the cache."""
        if not self.ledger.cache:
            return False
        table = self.rows
        leaders = np.flatnonzero(table.active & (table.computed < table.prefill_end))
        have = -1
        for row in leaders.tolist():
            leader = seated[row]
            if leader is None or leader.request.asked.namespace != branch.request.asked.namespace:
                continue
            end = min(int(table.prefill_end[row]), usable_prefix(branch))
            differ = np.flatnonzero(table.tokens[row, :end] != branch.tokens[:end])
            common = int(differ[0]) if len(differ) else end
            have = self.matched(branch) if have < 0 else have
            if common // self.ledger.page_size * self.ledger.page_size - have >= SHARE_THRESHOLD:
                return True
        return False


def usable_prefix(branch: Branch) -> int:
    """How many leading tokens may come from the cache: never the last, whose logits are wanted, nor any
    position whose own logprob was asked for."""
    usable = len(branch.tokens) - 1
    if 0 <= branch.logprobs_from < branch.request.prompt_tokens:
        usable = min(usable, branch.logprobs_from - 1)
    return usable
