"""Every check of the logits processor kit is seen to fail, each on a processor that breaks just its promise."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.testing import LogitsProcessorConformance
from testing.faults import checks, seen

HOME = "testing.broken_processors"
GIVEN = {"arguments": ({"strength": 2.5},), "refused": ({}, {"strength": -1}, {"strength": "much"})}


def spec(name: str, validator: str = "validate", **declared: Any) -> LogitsProcessorSpec:
    return LogitsProcessorSpec(name="x", factory=f"{HOME}:{name}", validator=f"{HOME}:{validator}", **declared)


def suite(name: str, *args: str, **declared: Any) -> type[LogitsProcessorConformance]:
    return type("Suite", (LogitsProcessorConformance,), {"spec": spec(name, *args, **declared), **GIVEN})


class TestSound(LogitsProcessorConformance):
    spec = spec("Sound")
    arguments, refused = GIVEN["arguments"], GIVEN["refused"]


FAULTS = [
    (suite("Sound", "accept_all"), "test_arguments_are_judged", r"the arguments {} are accepted"),
    (suite("Sound", "validate_by_luck"), "test_arguments_are_judged", "raise KeyError, not RequestError"),
    (suite("ChangesOtherRows"), "test_only_its_own_rows_change", "rows change that are not its own"),
    (suite("MakesNaN"), "test_only_its_own_rows_change", "NaN comes into the logits"),
    (suite("ForbidsEverything"), "test_only_its_own_rows_change", "a row has no token left"),
    (suite("ForbidsTheBest", keeps_best=True), "test_only_its_own_rows_change", "though keeps_best is declared"),
    (suite("GoesByPlace"), "test_rows_are_independent", "depends on the order of rows"),
    (suite("GoesByTheBatch"), "test_rows_are_independent", "depends on the rows beside it"),
    (suite("ForgetsRepeats"), "test_a_state_can_be_made_again", "a state rebuilt from its tokens differs"),
    (suite("Sound", needs_tokens=False), "test_a_state_can_be_made_again", "a state rebuilt from its tokens differs"),
    (suite("SharesItsStates"), "test_states_are_their_own", "two branches share a state"),
    (suite("KeepsAView"), "test_a_state_keeps_no_view", "looks into a view it was lent"),
]


@pytest.mark.parametrize("suite, check, message", FAULTS)
def test_the_fault_is_seen(suite: type, check: str, message: str):
    seen(suite, check, message)


def test_without_arguments_what_can_be_tried_is():
    bare = type("Suite", (LogitsProcessorConformance,), {"spec": spec("ChangesOtherRows", "accept_all")})
    seen(bare, "test_only_its_own_rows_change", "rows change that are not its own")
    picky = type("Suite", (LogitsProcessorConformance,), {"spec": spec("ChangesOtherRows")})
    with pytest.raises(pytest.skip.Exception, match="the suite gives no arguments"):
        picky().test_only_its_own_rows_change()


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert {check for _, check, _ in FAULTS} == set(checks(LogitsProcessorConformance)) - general
