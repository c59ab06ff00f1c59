"""No policy, a plugin's neither, lets more than a stated number of later ones pass one that waits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.driving import Drive, ask
from scheduler.fake import build, run_alone
from sglcore.builtin import policies as builtin
from sglcore.contracts.policies import W
from sglcore.scheduler import PriorityRules


class NewestFirst:
    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        return list(waiting)[::-1]


class AnotherOrderEachTime:
    def __init__(self) -> None:
        self.dice = random.Random(0)

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        return self.dice.sample(list(waiting), len(waiting))


class Forgetful:
    """Never names the oldest."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        return list(waiting)[:0:-1]


class Stale:
    """Names branches that have gone, and everybody twice."""

    def __init__(self) -> None:
        self.seen: list = []

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        self.seen += [b for b in waiting if b not in self.seen]
        return self.seen[::-1] + list(waiting)


POLICIES = [
    builtin.FirstComeFirstServed,
    builtin.LongestPrefixMatch,
    builtin.DepthFirstByWeight,
    builtin.LongestOutputFirst,
    builtin.ByPriority,
    builtin.RandomOrder,
    NewestFirst,
    AnotherOrderEachTime,
    Forgetful,
    Stale,
]


class Watched(Drive):
    """Counts, for each branch that waits, the later ones that are seated before it."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.passed: dict[int, int] = {}  # arrival -> later ones seated before it since it first waited
        self.seat = self.scheduler.queue.seat
        self.scheduler.queue.seat = self.count

    def count(self, branch) -> None:
        for other in self.scheduler.queue.branches:
            if other.arrival < branch.arrival:
                self.passed[other.arrival] = self.passed.get(other.arrival, 0) + 1
        self.seat(branch)


@pytest.mark.parametrize("policy", POLICIES)
@given(
    overtakes=st.integers(1, 6),
    rows=st.integers(1, 3),
    depth=st.integers(1, 2),
    by_priority=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=10, deadline=None)
def test_at_most_the_stated_number_passes(policy, overtakes, rows, depth, by_priority, seed):
    dice = random.Random(seed)
    # a threshold that no request reaches: what is taken from running rows is counted in the test below
    rules = PriorityRules(enabled=by_priority, threshold=1000)
    scheduler, runner = build(rows=rows, policy=policy(), overtakes=overtakes, pages=200, priority=rules)
    drive = Watched(scheduler, runner, depth)
    asked = {}
    for i in range(24):
        prompt = [(dice.randrange(3) * 11 + j) % 50 for j in range(dice.randrange(1, 40))]
        asked[f"r{i}"] = (prompt, dice.randrange(1, 8))
        scheduler.add(ask(f"r{i}", *asked[f"r{i}"], priority=dice.randrange(4)))
        if dice.random() < 0.1:
            scheduler.abort(f"r{dice.randrange(i + 1)}")
        drive.step(dice.randrange(3))
    drive.finish()
    assert max(drive.passed.values(), default=0) <= overtakes
    for rid, (prompt, new) in asked.items():
        got = drive.tokens(rid)
        assert got == run_alone(prompt, new)[: len(got)] and len(drive.ends(rid)) == 1


@given(overtakes=st.integers(1, 5), depth=st.integers(1, 2), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_with_seats_taken_by_priority_it_is_at_most_twice_that_number(overtakes, depth, seed):
    dice = random.Random(seed)
    rules = PriorityRules(enabled=True, threshold=1)
    scheduler, runner = build(rows=2, overtakes=overtakes, pages=200, priority=rules)
    drive = Watched(scheduler, runner, depth)
    for i in range(40):
        scheduler.add(ask(f"r{i}", [i % 50], dice.randrange(1, 9), priority=i + dice.randrange(3)))
        drive.step(dice.randrange(3))
    drive.finish()
    assert max(drive.passed.values(), default=0) <= 2 * overtakes
    assert all(drive.ends(f"r{i}") == ["length"] for i in range(40))


def test_a_stream_of_later_ones_does_not_starve_the_first():
    scheduler, runner = build(rows=1, policy=NewestFirst(), overtakes=7, pages=200)
    drive = Drive(scheduler, runner)
    scheduler.add(ask("running", [1], 3))
    drive.step()
    scheduler.add(ask("first", [2], 1))
    for i in range(30):
        scheduler.add(ask(f"r{i}", [3], 1))
        drive.step(1)
    assert drive.seated.index("first") == 1 + 7
