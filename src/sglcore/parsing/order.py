"""Whether a parser's events keep to the contract."""

from __future__ import annotations

from typing import Any

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta


class EventOrder:
    """Follows the events of one parser. `reasoning`: those of a reasoning parser are allowed, instead of calls."""

    def __init__(self, *, reasoning: bool) -> None:
        self._allowed: tuple[type, ...] = (ReasoningDelta if reasoning else CallStarted, TextDelta)
        if not reasoning:
            self._allowed += (ArgumentsDelta, CallEnded)
        self._calls = 0
        self._open: set[int] = set()
        self._ids: set[str] = set()

    def check(self, events: Any) -> None:
        """Raises TypeError or ValueError saying which event is not what the contract allows here."""
        if not isinstance(events, list):
            raise TypeError(f"returned {type(events).__name__} instead of a list of events")
        for event in events:
            self._check(event)

    def _check(self, event: Any) -> None:
        if not isinstance(event, self._allowed):
            raise TypeError(f"{type(event).__name__} is no event of this kind of parser")
        if isinstance(event, CallStarted):
            self._check_start(event)
        elif isinstance(event, ArgumentsDelta | CallEnded) and (
            type(event.index) is not int or event.index not in self._open
        ):
            raise ValueError(f"{type(event).__name__} for call {event.index!r}, which is not open")
        if isinstance(event, CallEnded):
            self._open.discard(event.index)
        elif not isinstance(event, CallStarted):
            _check_text(event, "text")

    def _check_start(self, event: CallStarted) -> None:
        if type(event.index) is not int or event.index != self._calls:
            raise ValueError(f"call {event.index!r} started where {self._calls} is the next")
        _check_text(event, "id")
        _check_text(event, "name")
        if event.id in self._ids:
            raise ValueError(f"call {event.index} has the id of an earlier one")
        self._calls += 1
        self._open.add(event.index)
        self._ids.add(event.id)


def _check_text(event: Any, field: str) -> None:
    value = getattr(event, field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{type(event).__name__} with {field} {value!r}")
    value.encode()  # raises UnicodeEncodeError, a ValueError, for what no client could be sent
