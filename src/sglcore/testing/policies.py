"""PolicyConformance: a queue policy reorders what waits, and does nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from sglcore.contracts.policies import Policy, PolicySpec
from sglcore.testing.specs import SpecConformance

NOW = 1_000_000.0  # monotonic seconds; branches were queued before


@dataclass(eq=False)
class WaitingBranch:
    """Implements `contracts.Waiting`; compared by identity. cached: how many of its tokens are in the prefix cache."""

    rid: str
    queued_at: float
    tokens: np.ndarray = field(repr=False)
    cached: int = 0
    priority: float = 0.0
    max_new_tokens: int = 128
    namespace: str = ""


def waiting(count: int, seed: int = 0) -> list[WaitingBranch]:
    """Branches in order of arrival, with prompts and cached prefixes of many lengths; some are alike."""
    made = random.Random(seed)
    branches = []
    for i in range(count):
        length = made.choice((1, 2, 7, 7, 40, 500))
        tokens = np.array([made.randrange(1000) for _ in range(length)], np.int32)
        tokens.flags.writeable = False
        branches.append(WaitingBranch(f"r{i}", NOW - count + i, tokens, made.choice((0, 0, length - 1))))
        branches[-1].priority = float(made.choice((-5, 0, 0, 20)))
        branches[-1].max_new_tokens = made.choice((1, 128, 128, 4096))
        branches[-1].namespace = made.choice(("", "", "other"))
    return branches


class PolicyConformance(SpecConformance):
    """Subclass with `spec`.

    sizes: lengths of the queue to try.
    """

    spec: ClassVar[PolicySpec]
    family = "policies"
    sizes: ClassVar[tuple[int, ...]] = (2, 3, 17, 300)

    def make(self) -> Policy:
        """A fresh policy."""
        policy: Policy = self.spec.load()()
        return policy

    def test_the_order_is_a_permutation(self) -> None:
        """Every branch comes back, the same object, once."""
        for size in self.sizes:
            for seed in range(3):
                queue = waiting(size, seed)
                got = self._order(queue)
                lost = [branch.rid for branch in queue if branch not in got]
                assert not lost, f"of {size} waiting branches it loses {', '.join(lost[:5])}"
                assert len(got) == size, f"it makes {len(got)} of {size} waiting branches: some come back twice"

    def test_none_and_one(self) -> None:
        """An empty queue stays empty; one branch stays."""
        assert len(self._order([])) == 0, "it finds branches in an empty queue"
        queue = waiting(1)
        got = self._order(queue)
        assert len(got) == 1 and got[0] is queue[0], f"a lone branch comes back as {got!r:.200}"

    def test_what_it_is_given_stays_as_it_was(self) -> None:
        """Neither the queue nor a branch is changed, and a tuple serves as well as a list."""
        queue = waiting(40)
        kept = list(queue)
        facts = [(b.rid, b.queued_at, b.tokens.tobytes(), b.cached, b.priority) for b in queue]
        self._order(queue)
        assert len(queue) == len(kept) and all(a is b for a, b in zip(queue, kept, strict=True)), (
            "it reorders the queue that it is given; a new sequence must come back"
        )
        assert facts == [(b.rid, b.queued_at, b.tokens.tobytes(), b.cached, b.priority) for b in queue], (
            "it changes a branch"
        )
        assert len(self._order(tuple(queue))) == len(queue)

    def test_the_same_queue_gives_the_same_order(self) -> None:
        """It decides by what it is shown, not by chance: twice the same, and by a fresh policy too."""
        queue, policy = waiting(40), self.make()
        orders = [[b.rid for b in self._order(queue, p)] for p in (policy, policy, self.make())]
        assert orders[0] == orders[1] == orders[2], "the same queue is put into different orders"

    def _order(self, queue: Sequence[Any], policy: Policy | None = None) -> list[Any]:
        asked: Callable[[Any], int] = lambda branch: int(branch.cached)  # noqa: E731
        got = (policy or self.make()).order(queue, asked)
        assert isinstance(got, Sequence), f"order returned a {type(got).__name__}, not a sequence"
        return list(got)
