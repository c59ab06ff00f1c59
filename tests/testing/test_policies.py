"""Every check of the policy kit is seen to fail."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sglcore.builtin.policies import FCFS
from sglcore.testing import PolicyConformance
from testing.faults import checks, seen


def drops(waiting: Any) -> Any:
    return waiting[:-1] if len(waiting) > 1 else waiting


def doubles(waiting: Any) -> Any:
    return [*waiting, *waiting[:1]] if len(waiting) > 1 else waiting


def copies(waiting: Any) -> Any:
    import copy

    return [copy.copy(branch) for branch in waiting]


def sorts_in_place(waiting: Any) -> Any:
    waiting.sort(key=lambda b: len(b.tokens))
    return waiting


def shuffles(waiting: Any) -> Any:
    return random.sample(list(waiting), len(waiting))


def fills(waiting: Any) -> Any:
    return waiting or ["somebody"]


def marks(waiting: Any) -> Any:
    for branch in waiting:
        branch.queued_at = 0.0
    return waiting


def needs_two(waiting: Any) -> Any:
    return [*waiting[1:], *waiting[:1]] if len(waiting) > 1 else []


def yields(waiting: Any) -> Any:
    return iter(waiting)


FAULTS = [
    (drops, "test_the_order_is_a_permutation", "of 2 waiting branches it loses r1"),
    (doubles, "test_the_order_is_a_permutation", "makes 3 of 2 waiting branches: some come back twice"),
    (copies, "test_the_order_is_a_permutation", "it loses r0"),
    (yields, "test_the_order_is_a_permutation", "not a sequence"),
    (fills, "test_none_and_one", "finds branches in an empty queue"),
    (needs_two, "test_none_and_one", "a lone branch comes back as"),
    (sorts_in_place, "test_what_it_is_given_stays_as_it_was", "reorders the queue that it is given"),
    (marks, "test_what_it_is_given_stays_as_it_was", "it changes a branch"),
    (shuffles, "test_the_same_queue_gives_the_same_order", "into different orders"),
]


@pytest.mark.parametrize("order, check, message", FAULTS)
def test_the_fault_is_seen(order: Any, check: str, message: str):
    policy = type("Broken", (), {"order": lambda self, waiting, matched: order(waiting)})
    seen(type("Suite", (PolicyConformance,), {"spec": FCFS, "make": lambda self: policy()}), check, message)


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert {check for _, check, _ in FAULTS} == set(checks(PolicyConformance)) - general
