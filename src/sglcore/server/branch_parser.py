"""One branch's text through its parsers. What goes wrong in one is contained: the text goes on as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sglcore.contracts.parsers import ArgumentsDelta, ParseContext, ReasoningDelta, TextDelta, Tool
from sglcore.errors import PluginError
from sglcore.parsing import EventOrder
from sglcore.server.parsers import Served


@dataclass(frozen=True)
class Parsing:
    """What is to be parsed in the answer of one request.

    parallel: more than one call may be told. stream_reasoning: thoughts are told as they come, else when complete.
    """

    context: ParseContext = field(default_factory=ParseContext)
    tool: Served | None = None
    reasoning: Served | None = None
    parallel: bool = True
    stream_reasoning: bool = True

    def __bool__(self) -> bool:
        return self.tool is not None or self.reasoning is not None

    @property
    def special(self) -> bool:
        """Whether special tokens must stay in the text."""
        return any(served is not None and served.special for served in (self.tool, self.reasoning))

    def branch(self, index: int) -> BranchParser:
        """The parser of one branch."""
        return BranchParser(self, replace(self.context, key=f"{self.context.key}:{index}"))


class Stage:
    """One parser on one branch. After it has failed, text passes as it is.

    warning: what the client is to be told of that; None while all is well.
    """

    def __init__(self, served: Served, context: ParseContext) -> None:
        self.warning: dict[str, Any] | None = None
        self._served = served
        self._order = EventOrder(reasoning=served.family == "reasoning_parsers")
        self._untold = ""  # text that no event has told yet
        self._parser: Any = None
        if served.breaker.open:
            self.warning = served.warning("parser_disabled", "failed repeatedly and is left out for now")
        else:
            self._guarded(lambda: self._made(context))

    def _made(self, context: ParseContext) -> list[Any]:
        self._parser = self._served.make(context)
        return []

    def feed(self, text: str) -> list[Any]:
        """The events of the next text."""
        if self.warning is not None:
            return [TextDelta(text)] if text else []
        if not text:
            return []
        self._untold += text
        return self._guarded(lambda: self._parser.feed(text))

    def finish(self) -> list[Any]:
        """The events of the end."""
        if self.warning is not None:
            return []
        events = self._guarded(lambda: self._parser.finish())
        if self.warning is None:
            self._served.breaker.succeeded()
        return events

    def whole(self, text: str) -> list[Any]:
        """The events of a whole text. If the parser fails anywhere in it, the text as it is."""
        events = [*self.feed(text), *self.finish()]
        return events if self.warning is None or not text else [TextDelta(text)]

    def _guarded(self, call: Callable[[], Any]) -> list[Any]:
        try:
            events = call()
            self._order.check(events)
        except Exception as error:
            # What a factory raises comes wrapped, for those who start with it.
            cause = error.__cause__ or error if isinstance(error, PluginError) else error
            self._served.breaker.failed(cause)
            self.warning = self._served.warning("parser_failed", f"failed ({type(cause).__name__})")
            self._parser = None
            return [TextDelta(self._untold)] if self._untold else []
        self._note(events)
        return list(events)

    def _note(self, events: Sequence[Any]) -> None:
        """Forget the text up to what was told last: it is not given again if the parser fails later."""
        if not events:
            return
        texts = [e.text for e in events if isinstance(e, TextDelta | ReasoningDelta | ArgumentsDelta)]
        at = self._untold.rfind(texts[-1]) if texts else -1
        self._untold = self._untold[at + len(texts[-1]) :] if at >= 0 else ""


class BranchParser:
    """Thoughts first, then calls in what is left."""

    def __init__(self, parsing: Parsing, context: ParseContext) -> None:
        self._parsing = parsing
        starts = parsing.tool.spec.starts if parsing.tool else ()  # type: ignore[union-attr]
        self._reasoning = parsing.reasoning and Stage(parsing.reasoning, replace(context, call_markers=starts))
        self._tool = parsing.tool and Stage(parsing.tool, context)
        self._thought: list[str] = []  # told when complete, where it is not streamed

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """What the client is to be told beside the answer."""
        return [stage.warning for stage in (self._reasoning, self._tool) if stage and stage.warning is not None]

    def feed(self, text: str) -> list[Any]:
        """The events of the next text, those of neighbouring deltas joined."""
        return self._told(self._reasoning.feed(text) if self._reasoning else [TextDelta(text)] if text else [])

    def finish(self) -> list[Any]:
        """The events of the end."""
        events = self._told(self._reasoning.finish() if self._reasoning else [])
        events += self._complete_thought()
        return events + self._kept(self._tool.finish() if self._tool else [])

    def whole(self, text: str) -> list[Any]:
        """The events of a whole text; one that a parser fails on is not parsed by it at all."""
        events = self._reasoning.whole(text) if self._reasoning else [TextDelta(text)] if text else []
        thoughts: list[Any] = [event for event in events if isinstance(event, ReasoningDelta)]
        content = "".join(event.text for event in events if isinstance(event, TextDelta))
        if self._tool:
            return thoughts + self._kept(self._tool.whole(content))
        return thoughts + ([TextDelta(content)] if content else [])

    def _told(self, events: list[Any]) -> list[Any]:
        told: list[Any] = []
        for event in events:
            if isinstance(event, TextDelta):
                told += self._complete_thought()
                told += self._kept(self._tool.feed(event.text)) if self._tool else [event]
            elif self._parsing.stream_reasoning:
                told.append(event)
            else:
                self._thought.append(event.text)
        return told

    def _complete_thought(self) -> list[Any]:
        thought, self._thought = "".join(self._thought), []
        return [ReasoningDelta(thought)] if thought else []

    def _kept(self, events: list[Any]) -> list[Any]:
        """Without the calls after the first, where the client wants one at most."""
        return [e for e in events if self._parsing.parallel or getattr(e, "index", 0) == 0]


def joined(events: Sequence[Any]) -> list[Any]:
    """The same events, with neighbouring deltas of one kind made one."""
    out: list[Any] = []
    for event in events:
        last = out[-1] if out else None
        same = type(event) is type(last) and getattr(event, "index", 0) == getattr(last, "index", 0)
        if same and hasattr(event, "text"):
            out[-1] = replace(event, text=out[-1].text + event.text)
        else:
            out.append(event)
    return out


def tools_of(functions: Sequence[dict[str, Any]]) -> tuple[Tool, ...]:
    """Checked functions of a request as parsers see them."""
    return tuple(
        Tool(name=f["name"], description=f.get("description") or "", parameters=f.get("parameters") or {})
        for f in functions
    )
