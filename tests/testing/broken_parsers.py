"""Parsers that each break one promise. The sound ones behind them are those of this repository."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import replace
from typing import Any

from sglcore_plugin_hermes.parser import HermesParser
from sglcore_plugin_think.parser import ThinkParser

from sglcore.contracts.parsers import (
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    ParseContext,
    ReasoningDelta,
    TextDelta,
    Tool,
)


class Around:
    """Passes everything through; subclasses change what goes in or comes out."""

    kind: Any = HermesParser

    def __init__(self, context: ParseContext) -> None:
        self.inner = self.kind(self.see(context))

    def see(self, context: ParseContext) -> ParseContext:
        return context

    def tell(self, events: list[Any]) -> list[Any]:
        return events

    def feed(self, text: str) -> Any:
        return self.tell(self.inner.feed(text))

    def finish(self) -> Any:
        return self.tell(self.inner.finish())


class AroundThoughts(Around):
    kind = ThinkParser


class ForgetsBetweenChunks(Around):
    """Looks for markers in one chunk only."""

    def feed(self, text: str) -> Any:
        return self.tell([*self.inner.feed(text), *(self.inner.finish() if self.inner._call is None else [])])

    def finish(self) -> Any:
        return []


class Raises(Around):
    def feed(self, text: str) -> Any:
        if "🎉" in text:
            raise ValueError("no fun")
        return super().feed(text)


class DropsSpace(Around):
    def tell(self, events: list[Any]) -> list[Any]:
        return [e if not isinstance(e, TextDelta) else TextDelta(e.text.replace("\n", " ")) for e in events]


class Invents(Around):
    def tell(self, events: list[Any]) -> list[Any]:
        return [TextDelta(e.text.replace("{", "{{")) if isinstance(e, TextDelta) else e for e in events]


class ClosesWhatIsCutOff(Around):
    def __init__(self, context: ParseContext) -> None:
        super().__init__(context)
        self.open: set[int] = set()

    def tell(self, events: list[Any]) -> list[Any]:
        self.open |= {e.index for e in events if isinstance(e, CallStarted)}
        self.open -= {e.index for e in events if isinstance(e, CallEnded)}
        return events

    def finish(self) -> Any:
        return [*super().finish(), *(CallEnded(index) for index in self.open)]


class Speaks(Around):
    """Says something at the end of nothing."""

    def finish(self) -> Any:
        return [*super().finish(), TextDelta(".")]


class RandomIds(Around):
    def tell(self, events: list[Any]) -> list[Any]:
        return [replace(e, id=uuid.uuid4().hex) if isinstance(e, CallStarted) else e for e in events]


class CountedIds(Around):
    def tell(self, events: list[Any]) -> list[Any]:
        return [replace(e, id=f"call_{e.index}") if isinstance(e, CallStarted) else e for e in events]


class CallsAnything(Around):
    def see(self, context: ParseContext) -> ParseContext:
        return replace(context, tools=(*context.tools, Tool(name="no_such_tool")))


class Gathers(Around):
    """Arguments at once, when a call ends."""

    def __init__(self, context: ParseContext) -> None:
        super().__init__(context)
        self.arguments = ""

    def tell(self, events: list[Any]) -> list[Any]:
        out: list[Any] = []
        for e in events:
            if isinstance(e, ArgumentsDelta):
                self.arguments += e.text
            elif isinstance(e, CallEnded):
                out += [ArgumentsDelta(e.index, self.arguments), e]
                self.arguments = ""
            else:
                out.append(e)
        return out


class FirstCallOnly(Around):
    def tell(self, events: list[Any]) -> list[Any]:
        return [e for e in events if getattr(e, "index", 0) == 0]


class NoEmptyArguments(Around):
    def tell(self, events: list[Any]) -> list[Any]:
        return [e for e in events if getattr(e, "text", "") != "{}"]


class CallsAreLast(Around):
    def __init__(self, context: ParseContext) -> None:
        super().__init__(context)
        self.called = False

    def tell(self, events: list[Any]) -> list[Any]:
        out = []
        for e in events:
            self.called = self.called or isinstance(e, CallEnded)
            if not (self.called and isinstance(e, TextDelta)):
                out.append(e)
        return out


class LosesTextBeforeCalls(Around):
    def tell(self, events: list[Any]) -> list[Any]:
        return [e for e in events if not isinstance(e, TextDelta) or "Let me" not in e.text]


class AtTheFirstClosingTag:
    """Waits for the end, and finds calls with a pattern that ends at the first closing tag, wherever that stands."""

    pattern = re.compile(r"<tool_call>(.*?)</tool_call>", re.S)

    def __init__(self, context: ParseContext) -> None:
        self.context = context
        self.text = ""

    def feed(self, text: str) -> Any:
        self.text += text
        return []

    def finish(self) -> Any:
        events: list[Any] = []
        for index, found in enumerate(self.pattern.finditer(self.text)):
            try:
                call = json.loads(found[1])
            except ValueError:
                continue
            events += [CallStarted(index, self.context.call_id(index), call["name"])]
            events += [ArgumentsDelta(index, json.dumps(call["arguments"])), CallEnded(index)]
        return events


class WrongOrder(Around):
    def tell(self, events: list[Any]) -> list[Any]:
        return sorted(events, key=lambda e: isinstance(e, CallStarted))


class ReturnsNothing(Around):
    def feed(self, text: str) -> Any:
        super().feed(text)


# -- reasoning --


class ForgetsTags(AroundThoughts):
    """Does not see a closing tag that comes in two chunks."""

    def feed(self, text: str) -> Any:
        return [*self.inner.feed(text), *(self._flush() if not text.endswith("</think>") else [])]

    def _flush(self) -> list[Any]:
        rest, self.inner._buffer = self.inner._buffer, ""
        return [TextDelta(rest)] if rest else []


class AlwaysThinks(AroundThoughts):
    def __init__(self, context: ParseContext) -> None:
        self.inner = ThinkParser(context, inside=True)


class GathersThoughts(AroundThoughts):
    def __init__(self, context: ParseContext) -> None:
        super().__init__(context)
        self.thought = ""

    def tell(self, events: list[Any]) -> list[Any]:
        out: list[Any] = []
        for e in events:
            if isinstance(e, ReasoningDelta):
                self.thought += e.text
            else:
                out += [*self.all(), e]
        return out

    def all(self) -> list[Any]:
        thought, self.thought = self.thought, ""
        return [ReasoningDelta(thought)] if thought else []

    def finish(self) -> Any:
        return [*super().finish(), *self.all()]


class UnendedIsAnswer(GathersThoughts):
    def finish(self) -> Any:
        return [TextDelta(e.text) for e in super().finish()]


class IgnoresCalls(AroundThoughts):
    def see(self, context: ParseContext) -> ParseContext:
        return replace(context, call_markers=())


class AlwaysEndsAtCalls(AroundThoughts):
    def see(self, context: ParseContext) -> ParseContext:
        return replace(context, call_markers=("<|call|>",))


class KeepsTheTag(AroundThoughts):
    def tell(self, events: list[Any]) -> list[Any]:
        return [TextDelta("</think>" + e.text) if isinstance(e, TextDelta) else e for e in events]
