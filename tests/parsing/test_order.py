"""The order of events."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.parsing import EventOrder

START = CallStarted(0, "a", "f")


def test_what_the_contract_allows_passes() -> None:
    order = EventOrder(reasoning=False)
    order.check([TextDelta("x"), START, ArgumentsDelta(0, "{")])
    order.check([])
    order.check([CallStarted(1, "b", "f"), ArgumentsDelta(0, "}"), CallEnded(0), TextDelta("y"), CallEnded(1)])
    EventOrder(reasoning=True).check([ReasoningDelta("x"), TextDelta("y"), ReasoningDelta("z")])


@pytest.mark.parametrize(
    "events",
    [
        None,
        (TextDelta("x"),),
        ["x"],
        [ReasoningDelta("x")],
        [TextDelta("")],
        [TextDelta(b"x")],  # type: ignore[arg-type]
        [TextDelta("\udc00")],
        [CallStarted(1, "a", "f")],
        [CallStarted(0.0, "a", "f")],  # type: ignore[arg-type]
        [CallStarted(0, "", "f")],
        [CallStarted(0, "a", "")],
        [START, START],
        [START, CallStarted(1, "a", "f")],
        [ArgumentsDelta(0, "{}")],
        [START, ArgumentsDelta(0, "")],
        [START, ArgumentsDelta(False, "{}")],
        [START, CallEnded(0), ArgumentsDelta(0, "{}")],
        [START, CallEnded(0), CallEnded(0)],
        [START, CallEnded([])],  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_what_it_does_not_allow_is_refused(events: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        EventOrder(reasoning=False).check(events)


@pytest.mark.parametrize("event", [START, ArgumentsDelta(0, "{}"), CallEnded(0)], ids=repr)
def test_a_reasoning_parser_tells_no_calls(event: Any) -> None:
    with pytest.raises(TypeError):
        EventOrder(reasoning=True).check([event])
