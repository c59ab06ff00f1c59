"""The parser. A thought may come first, then the answer."""

from __future__ import annotations

from sglcore.contracts.parsers import ParseContext, ReasoningDelta, ReasoningEvent, TextDelta
from sglcore.parsing import cut

OPEN, CLOSE = "<think>", "</think>"


def always(context: ParseContext) -> ThinkParser:
    """For models whose answers begin inside the thought."""
    return ThinkParser(context, inside=True)


class ThinkParser:
    """See sglcore.contracts.parsers.ReasoningParser.

    inside: the thought has begun where the prompt does not say otherwise.
    """

    def __init__(self, context: ParseContext, *, inside: bool = False) -> None:
        prompt = context.prompt.rstrip()
        closed = prompt.endswith(CLOSE)
        self._inside = prompt.endswith(OPEN) or (inside and not closed)
        self._ends = (CLOSE, *context.call_markers)
        # Beginning, thought, space after it, answer: each is a step that returns whether there is more to look at.
        self._step = self._beginning
        self._buffer = ""
        self._space = ""  # inside the thought: dropped if its end comes next
        self._thought = False  # something of it was told

    def feed(self, text: str) -> list[ReasoningEvent]:
        self._buffer += text
        events: list[ReasoningEvent] = []
        while self._step(events):
            pass
        return events

    def finish(self) -> list[ReasoningEvent]:
        """A thought without an end is a thought; the beginning of a tag is what surrounds it."""
        thinking = self._step == self._thinking or (self._step == self._beginning and self._inside)
        rest, self._buffer = self._space + self._buffer, ""
        if thinking and not self._thought:
            rest = rest.lstrip()
        if not rest or self._step == self._space_after:
            return []
        return [ReasoningDelta(rest) if thinking else TextDelta(rest)]

    def _beginning(self, events: list[ReasoningEvent]) -> bool:
        """White space and an opening tag may come first."""
        rest = self._buffer.lstrip()
        if len(rest) < len(OPEN) and OPEN.startswith(rest):
            return False
        opened = rest.startswith(OPEN)
        if opened:
            self._buffer = rest[len(OPEN) :]
        self._step = self._thinking if opened or self._inside else self._answer
        return True

    def _thinking(self, events: list[ReasoningEvent]) -> bool:
        before, mark, self._buffer = cut(self._buffer, self._ends)
        text = self._space + before
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if not self._thought:
            shown = shown.lstrip()
        if shown:
            self._thought = True
            events.append(ReasoningDelta(shown))
        if not mark:
            return False
        self._space = ""
        if mark != CLOSE:
            self._buffer = mark + self._buffer
        self._step = self._space_after
        return True

    def _space_after(self, events: list[ReasoningEvent]) -> bool:
        self._buffer = self._buffer.lstrip()
        if not self._buffer:
            return False
        self._step = self._answer
        return True

    def _answer(self, events: list[ReasoningEvent]) -> bool:
        text, self._buffer = self._buffer, ""
        if text:
            events.append(TextDelta(text))
        return False
