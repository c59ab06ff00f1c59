"""EvictionConformance: an order of eviction gives every run a rank that compares, and that never falls."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from sglcore.contracts.policies import EvictionOrder, EvictionSpec
from sglcore.testing.specs import SpecConformance

LIVES, USES = 40, 12


@dataclass
class Run:
    """Implements `contracts.CachedRun`."""

    last_use: int
    born: int
    hits: int = 0
    priority: float = 0.0
    tenant: str = ""


def lives(seed: int = 0) -> Iterator[tuple[Run, list[dict[str, Any]]]]:
    """Runs at birth, each with what changes about it at its later uses; all on one clock."""
    chance = random.Random(seed)
    for number in range(LIVES):
        born = 1 + number * 3
        run = Run(born, born, 0, chance.choice((0.0, 0.0, -2.0, 7.5)), chance.choice(("", "a", "b")))
        tick, hits, priority, uses = born, 0, run.priority, []
        for _ in range(chance.randrange(USES)):
            tick, hits = tick + chance.randrange(1, 50), hits + chance.choice((0, 1))
            priority = max(priority, chance.choice((priority, 3.0)))
            uses.append({"last_use": tick, "hits": hits, "priority": priority})
        yield run, uses


class EvictionConformance(SpecConformance):
    """Subclass with `spec`, an EvictionSpec."""

    spec: ClassVar[EvictionSpec]
    family = "policies"

    def make(self) -> EvictionOrder:
        """A fresh order."""
        order: EvictionOrder = self.spec.load()()
        return order

    def test_it_is_an_order_of_eviction(self) -> None:
        """The Spec says that it is no order of the queue."""
        assert isinstance(self.spec, EvictionSpec), f"{self.spec.name} is a {type(self.spec).__name__}"

    def test_ranks_compare(self) -> None:
        """All ranks that it gives can be sorted, whatever the runs."""
        order = self.make()
        ranks = [order.rank(run) for seed in range(3) for run, _ in lives(seed)]
        try:
            ranks.sort()
        except TypeError as error:
            raise AssertionError(f"ranks do not compare with each other: {error}") from error
        odd = [rank for rank in ranks if rank != rank]
        assert not odd, f"a rank is {odd[0]!r}, which compares with nothing"

    def test_a_rank_never_falls(self) -> None:
        """Neither by being used, nor by being asked again."""
        order = self.make()
        for run, uses in lives():
            before = order.rank(run)
            for use in ({}, *uses):
                vars(run).update(use)
                now = order.rank(run)
                assert not now < before, f"the rank of a run falls from {before!r} to {now!r} with its use {use}"
                before = now

    def test_a_run_stays_as_it_was(self) -> None:
        """It is looked at, not written to."""
        order = self.make()
        for run, _ in lives():
            facts = dict(vars(run))
            order.rank(run)
            assert vars(run) == facts, f"it changes a run: {facts} is {vars(run)} after"
