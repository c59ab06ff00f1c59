"""Every check of the eviction kit is seen to fail; the core's own orders pass them."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.contracts.policies import EvictionSpec, PolicySpec
from sglcore.memory.eviction import ORDERS
from sglcore.testing import EvictionConformance, suite
from testing.faults import checks, seen

SPEC = EvictionSpec(name="x", factory="sglcore.memory.eviction:LeastRecentlyUsed")


def by(rank: Any) -> type[EvictionConformance]:
    order = type("Order", (), {"rank": lambda self, run: rank(run)})
    return type("Suite", (EvictionConformance,), {"spec": SPEC, "make": lambda self: order()})


def forgets(run: Any) -> int:
    run.tenant = "nobody"
    return run.last_use


FAULTS = [
    (by(lambda run: run.tenant or None), "test_ranks_compare", "ranks do not compare with each other"),
    (by(lambda run: float("nan")), "test_ranks_compare", "a rank is nan, which compares with nothing"),
    (by(lambda run: -run.last_use), "test_a_rank_never_falls", "falls from -.* with its use"),
    (by(forgets), "test_a_run_stays_as_it_was", "it changes a run"),
    (
        type("Suite", (EvictionConformance,), {"spec": PolicySpec(name="x", factory="a:b")}),
        "test_it_is_an_order_of_eviction",
        "x is a PolicySpec",
    ),
]


@pytest.mark.parametrize("suite, check, message", FAULTS)
def test_the_fault_is_seen(suite: type, check: str, message: str):
    seen(suite, check, message)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("check", checks(EvictionConformance))
def test_the_cores_own_orders_pass(name: str, check: str):
    own = type("Suite", (EvictionConformance,), {"spec": SPEC, "make": lambda self: ORDERS[name]()})
    getattr(own(), check)()


def test_the_suite_goes_by_the_spec():
    made = suite("policies", SPEC)
    assert made is not None and issubclass(made, EvictionConformance)


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert {check for _, check, _ in FAULTS} == set(checks(EvictionConformance)) - general
