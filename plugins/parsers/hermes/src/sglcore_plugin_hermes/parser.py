"""The parser. Text, then a tag, then one JSON object, then the closing tag, then text again."""

from __future__ import annotations

from sglcore.contracts.parsers import ParseContext, TextDelta, ToolEvent
from sglcore.parsing import CallObject, cut

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARKS = (OPEN,)


class HermesParser:
    """See sglcore.contracts.parsers.ToolParser."""

    def __init__(self, context: ParseContext) -> None:
        self._context = context
        self._buffer = ""  # not looked at yet, or the beginning of a tag
        self._space = ""  # white space that is dropped if a call comes next
        self._call: CallObject | None = None
        self._raw: list[str] = []  # text of a call of which nothing was told yet
        self._closing = False  # an object ended: its closing tag may follow
        self._calls = 0
        self._last_was_call = False

    def feed(self, text: str) -> list[ToolEvent]:
        self._buffer += text
        events: list[ToolEvent] = []
        while self._step(events):
            pass
        return events

    def finish(self) -> list[ToolEvent]:
        """A call whose arguments have begun stays open; of any other beginning of a call the text is told."""
        events: list[ToolEvent] = []
        if self._call is None and not self._closing:
            self._text(self._buffer, events)
        elif self._call is not None and not self._call.started:
            self._text("".join(self._raw), events)
        if self._space and not self._last_was_call:
            events.append(TextDelta(self._space))
        return events

    def _step(self, events: list[ToolEvent]) -> bool:
        """Go on by one state; False if more text is needed."""
        if self._call is not None:
            return self._in_call(self._call, events)
        if self._closing:
            return self._at_close()
        before, mark, self._buffer = cut(self._buffer, MARKS)
        self._text(before, events)
        if mark:
            self._call, self._raw = CallObject(self._context, self._calls), [mark]
        return bool(mark)

    def _in_call(self, call: CallObject, events: list[ToolEvent]) -> bool:
        at, told = call.feed(self._buffer)
        if not call.started:
            self._raw.append(self._buffer[:at])
        self._buffer = self._buffer[at:]
        if told:
            self._space, self._last_was_call = "", True
            events += told
        if not (call.done or call.broken):
            return False
        self._call = None
        if call.started:
            self._calls += 1
            self._closing = call.done
        else:
            self._text("".join(self._raw), events)
        return True

    def _at_close(self) -> bool:
        """Take the closing tag away; models that leave it out are forgiven."""
        rest = self._buffer.lstrip()
        if len(rest) < len(CLOSE) and CLOSE.startswith(rest):
            return False
        self._closing = False
        if rest.startswith(CLOSE):
            self._buffer = rest[len(CLOSE) :]
        return True

    def _text(self, text: str, events: list[ToolEvent]) -> None:
        """Tell text, but keep white space at its end back."""
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._last_was_call = False
            events.append(TextDelta(shown))
