"""One branch of an answer as events: text, thoughts, calls, and how it ended. What all chat dialects write from."""

from __future__ import annotations

from typing import Any

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.request import FinishReason
from sglcore.server.branch_parser import BranchParser, Parsing, joined
from sglcore.text.branch_text import Piece


def branches_of(parsing: Parsing, n: int) -> list[BranchEvents]:
    """Those of one request."""
    return [BranchEvents(parsing.branch(i) if parsing else None) for i in range(n)]


class BranchEvents:
    """Takes the pieces of one branch in order. parser: None where nothing is parsed."""

    def __init__(self, parser: BranchParser | None) -> None:
        self.calls = Calls()
        self.thought: list[str] = []
        self._parser = parser

    def take(self, piece: Piece) -> list[Any]:
        """The events of the next piece, those of neighbouring deltas joined."""
        if self._parser is None:
            return [TextDelta(piece.text)] if piece.text else []
        events = self._parser.feed(piece.text)
        if piece.finish is not None:
            events += self._parser.finish()
        return self._seen(joined(events))

    def whole(self, piece: Piece) -> list[Any]:
        """The events of the one piece that holds the whole branch."""
        if self._parser is None:
            return [TextDelta(piece.text)] if piece.text else []
        return self._seen(self._parser.whole(piece.text))

    def reason(self, finish: FinishReason) -> str:
        """OpenAI's word for the end: that calls are to be run goes before that the text stopped."""
        return "tool_calls" if finish.type == "stop" and self.calls.complete else finish.type

    @property
    def parsed(self) -> bool:
        """Whether thoughts or calls are looked for."""
        return self._parser is not None

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """What the client is to be told of parsers that failed."""
        return self._parser.warnings if self._parser is not None else []

    def _seen(self, events: list[Any]) -> list[Any]:
        self.calls.see(events)
        self.thought += [e.text for e in events if isinstance(e, ReasoningDelta)]
        return events


class Calls:
    """The calls of one branch, put together."""

    def __init__(self) -> None:
        self._started: list[CallStarted] = []
        self._arguments: list[str] = []
        self._ended = 0

    def see(self, events: list[Any]) -> None:
        """Take the next events of the branch."""
        for e in events:
            if isinstance(e, CallStarted):
                self._started.append(e)
                self._arguments.append("")
            elif isinstance(e, ArgumentsDelta):
                self._arguments[e.index] += e.text
            elif isinstance(e, CallEnded):
                self._ended += 1

    @property
    def complete(self) -> bool:
        """Whether there are calls and none was cut off: a client may run them."""
        return bool(self._started) and self._ended == len(self._started)

    def pairs(self) -> list[tuple[CallStarted, str]]:
        """Each call with the text of its arguments."""
        return list(zip(self._started, self._arguments, strict=True))
