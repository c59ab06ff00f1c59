"""Parsing text that is not an answer of this server: the parsers of the flags, and any other that is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sglcore.contracts.parsers import ParseContext, ReasoningDelta, TextDelta, Tool
from sglcore.errors import PluginError, RequestError
from sglcore.server.branch_events import Calls
from sglcore.server.branch_parser import BranchParser, Parsing
from sglcore.server.parsers import AUTO, AnswerParsers, Served

KINDS = {
    "tool_parsers": ("tool parser", "tool_call_parser"),
    "reasoning_parsers": ("reasoning parser", "reasoning_parser"),
}


class Load(Protocol):
    """(family, name) -> a parser in service; raises PluginError where there is none."""

    def __call__(self, family: str, name: str) -> Served: ...


class OfflineParsers:
    """Of one API process: those of its flags, and those that were asked for by name, each loaded once.

    load: None where only those of the flags may be named.
    """

    def __init__(self, configured: AnswerParsers, load: Load | None = None) -> None:
        self._configured = {"tool_parsers": configured.tool, "reasoning_parsers": configured.reasoning}
        self._load = load
        self._loaded: dict[tuple[str, str], Served] = {}

    def find(self, family: str, name: str | None) -> Served:
        """The parser of that name, None for that of the flags. Raises RequestError. May import a plugin."""
        kind, param = KINDS[family]
        configured = self._configured[family]
        if name is None or name == AUTO or (configured is not None and name == configured.name):
            if configured is None:
                raise RequestError(
                    f"This server was started without a {kind}.", param=param, remedy=f"Name one in `{param}`."
                )
            return configured
        found = self._loaded.get((family, name))
        if found is None:
            found = self._loaded[family, name] = self._new(family, name)
        return found

    def _new(self, family: str, name: str) -> Served:
        kind, param = KINDS[family]
        if self._load is not None:
            try:
                return self._load(family, name)
            except PluginError:
                pass  # what is wrong with a plugin is the operator's to know: `sglcore plugins doctor`
        raise RequestError(
            f"There is no {kind} {name[:80]!r} that can be used here.",
            param=param,
            code="parser_not_found",
            remedy="`sglcore plugins list` shows those that are installed.",
        )


def parse_calls(served: Served, text: str, tools: tuple[Tool, ...], key: str) -> dict[str, Any]:
    """The body of `/parse_function_call`. `key` makes the ids of calls."""
    parser, events = _parsed(Parsing(ParseContext(tools=tools, key=key), tool=served), text)
    calls = Calls()
    calls.see(events)
    found = [
        {"tool_index": started.index, "name": started.name, "parameters": arguments}
        for started, arguments in calls.pairs()
    ]
    return {"normal_text": _text(events, TextDelta), "calls": found} | _warned(parser)


def split_thoughts(served: Served, text: str) -> dict[str, Any]:
    """The body of `/separate_reasoning`."""
    parser, events = _parsed(Parsing(reasoning=served), text)
    return {"reasoning_text": _text(events, ReasoningDelta), "text": _text(events, TextDelta)} | _warned(parser)


def _parsed(parsing: Parsing, text: str) -> tuple[BranchParser, list[Any]]:
    parser = parsing.branch(0)
    return parser, parser.whole(text)


def _text(events: list[Any], kind: Callable[..., Any]) -> str:
    return "".join(event.text for event in events if type(event) is kind)


def _warned(parser: BranchParser) -> dict[str, Any]:
    return {"warnings": parser.warnings} if parser.warnings else {}
