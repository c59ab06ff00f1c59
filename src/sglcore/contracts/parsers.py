"""Tool and reasoning parsers: from the text a model writes to the calls and thoughts in it, as it comes.

A parser serves one branch of one request. It lives in the API process and is called from the event loop's thread
only, between two tokens of everybody: it may not block, and its work should be linear in the text. Parsers are rebuilt
by feeding the same text to a new one, so they keep no state elsewhere and give the same events again.

The contract, which `sglcore.testing.ParserConformance` checks:

* **Any chunking gives the same.** However the text is cut into `feed` calls, the events, with neighbouring deltas of
  one kind joined, are those of the whole text in one call. A marker may come one character at a time.
* **Nothing is raised**, whatever the text. What is no call, or a broken one, is text.
* **Nothing is lost or invented.** All that is neither marker, call nor the white space around them comes out as text.
* A call's id and name come once, in `CallStarted`, before its arguments; indices count from 0 without gaps.
* The `ArgumentsDelta` texts of a call that reaches `CallEnded`, joined, are the text of one JSON object ("{}" where
  there are no arguments). A call without `CallEnded` was cut off, and so may be its arguments.

What breaks it while serving is contained: the client gets the text as it came, and a warning naming the parser.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sglcore.contracts.spec import Spec


@dataclass(frozen=True, kw_only=True)
class ToolParserSpec(Spec):
    """A tool parser; `factory(context: ParseContext) -> ToolParser`, called once per branch.

    markers: every literal string the parser looks for. Where the model's tokenizer has one of them as a special
        token, special tokens are kept in the text of requests that are parsed.
    starts: those of them with which a call begins; a reasoning parser ends the thoughts there.
    suits: regular expressions searched in the model's chat template; any match makes the parser a candidate of
        `--tool-call-parser auto`. Empty: only chosen by name. Be exact: two candidates are an error.
    """

    markers: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    suits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReasoningParserSpec(Spec):
    """A reasoning parser; `factory(context: ParseContext) -> ReasoningParser`, called once per branch.

    markers, suits: as in ToolParserSpec, with `--reasoning-parser auto`.
    """

    markers: tuple[str, ...] = ()
    suits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function the client declared. `parameters` is its JSON schema, {} where it gave none; read only."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ParseContext:
    """What a parser may know of the branch it serves. Owned by the server; read only.

    tools: those declared in the request; empty for a reasoning parser of a request without tools.
    prompt: the prompt's text as the chat template wrote it: its end may have opened a thought already.
    template_arguments: the request's `chat_template_kwargs`, e.g. {"enable_thinking": False}.
    call_markers: the tool parser's `starts`, for a reasoning parser; empty where calls are not parsed.
    key: random for each branch, the same when its parser is rebuilt.
    """

    tools: tuple[Tool, ...] = ()
    prompt: str = ""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    call_markers: tuple[str, ...] = ()
    key: str = ""

    def call_id(self, index: int) -> str:
        """An id for the call `index`, for formats that bring none: the same whenever it is asked for."""
        return "call_" + hashlib.blake2b(f"{self.key}:{index}".encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text for the reader of the answer, from both kinds of parser. Never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of a thought, from reasoning parsers. Never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call's function is known. `name` is one of the declared tools: what calls another is text."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """The next piece of a started call's arguments: JSON text, not decoded. Never empty."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call's arguments are complete."""

    index: int


ToolEvent = TextDelta | CallStarted | ArgumentsDelta | CallEnded
ReasoningEvent = ReasoningDelta | TextDelta


class ToolParser(Protocol):
    """Finds the calls of one branch."""

    def feed(self, text: str) -> list[ToolEvent]:
        """The next text, not empty. Returns what is now certain, in the order of the text; a new list."""
        ...

    def finish(self) -> list[ToolEvent]:
        """The text has ended, possibly in the middle of a call. Called once, last; returns what was held back."""
        ...


class ReasoningParser(Protocol):
    """Tells the thoughts of one branch from its answer. Its TextDeltas are what a tool parser is fed with."""

    def feed(self, text: str) -> list[ReasoningEvent]:
        """The next text, not empty. Returns what is now certain, in the order of the text; a new list."""
        ...

    def finish(self) -> list[ReasoningEvent]:
        """The text has ended, possibly in the middle of a thought. Called once, last; returns what was held back."""
        ...
