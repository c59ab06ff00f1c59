"""Events of a turn -> Ollama's answers: one JSON object, or one a line.

Durations are in nanoseconds. The model is loaded before the first request is taken, so loading takes none.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.contracts.services import Turn, TurnEnd
from sglcore.errors import RequestError

DONE_REASONS = {"stop": "stop", "tool_calls": "stop", "length": "length"}

_encode = msgspec.json.Encoder().encode


def line(content: Any) -> bytes:
    """One object of a stream."""
    return _encode(content) + b"\n"


def now() -> str:
    """The time as Ollama writes it (RFC 3339)."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def loaded(model: str, *, chat: bool) -> dict[str, Any]:
    """The answer to a request without a prompt, which asks for the model to be loaded."""
    empty: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    return {"model": model, "created_at": now(), **empty, "done": True, "done_reason": "load"}


class Answer:
    """The answer of one request, from its beginning on the clock. Used once, for `whole` or for `lines`.

    chat: with a message, as /api/chat; else with a response, as /api/generate. thoughts: whether they are shown.
    """

    def __init__(self, model: str, *, chat: bool, thoughts: bool) -> None:
        self._model = model
        self._chat = chat
        self._thoughts = thoughts
        self._began = self._first = time.monotonic_ns()
        self._submitted = self._began
        self._calls = Calls()

    async def whole(self, turn: Turn) -> dict[str, Any]:
        """The one object. Raises RequestError where the turn was aborted."""
        gathered = Part()
        end: TurnEnd | None = None
        async with aclosing(self._parts(turn)) as parts:
            async for part, ended in parts:
                gathered.add(part)
                end = ended
        assert end is not None
        return self._object(gathered) | self._end(end)

    async def lines(self, turn: Turn) -> AsyncGenerator[bytes, None]:
        """A line for each delivery that has something to show, then the last one. Raises RequestError as `whole`."""
        async with aclosing(self._parts(turn)) as parts:
            async for part, end in parts:
                shown = [line(self._object(part) | {"done": False})] if part else []
                if end is not None:
                    shown.append(line(self._object(Part()) | self._end(end)))
                if shown:
                    yield b"".join(shown)

    async def _parts(self, turn: Turn) -> AsyncGenerator[tuple[Part, TurnEnd | None], None]:
        """What each delivery adds; the last with the end. Always as a stream: the first token's time is told."""
        self._submitted = time.monotonic_ns()
        first = True
        async with aclosing(turn.events()) as steps:
            async for events in steps:
                if first:
                    self._first, first = time.monotonic_ns(), False
                part = Part()
                end = None
                for event in events:
                    if isinstance(event, TurnEnd):
                        end = event
                    else:
                        self._see(event, part)
                yield part, end

    def _see(self, event: Any, part: Part) -> None:
        if isinstance(event, TextDelta):
            part.text += event.text
        elif isinstance(event, ReasoningDelta):
            part.thinking += event.text if self._thoughts else ""
        elif (call := self._calls.see(event)) is not None:
            part.calls.append(call)

    def _object(self, part: Part) -> dict[str, Any]:
        more: dict[str, Any] = {"thinking": part.thinking} if part.thinking else {}
        head = {"model": self._model, "created_at": now()}
        if not self._chat:
            return {**head, "response": part.text, **more}
        if part.calls:
            more["tool_calls"] = part.calls
        return {**head, "message": {"role": "assistant", "content": part.text, **more}}

    def _end(self, end: TurnEnd) -> dict[str, Any]:
        if end.reason not in DONE_REASONS:
            raise RequestError(end.message or "The request was aborted.", status=503, code="aborted")
        ended = time.monotonic_ns()
        return {
            "done": True,
            "done_reason": DONE_REASONS[end.reason],
            "total_duration": ended - self._began,
            "load_duration": 0,
            "prompt_eval_count": end.prompt_tokens,
            "prompt_eval_duration": self._first - self._submitted,
            "eval_count": end.completion_tokens,
            "eval_duration": ended - self._first,
        } | ({"warnings": end.warnings} if end.warnings else {})


class Part:
    """What an answer, or a piece of one, shows."""

    def __init__(self) -> None:
        self.text = ""
        self.thinking = ""
        self.calls: list[dict[str, Any]] = []

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.calls)

    def add(self, part: Part) -> None:
        """Take the next piece in."""
        self.text += part.text
        self.thinking += part.thinking
        self.calls += part.calls


class Calls:
    """Calls are told whole, their arguments as an object. One that is cut off is not told."""

    def __init__(self) -> None:
        self._started: CallStarted | None = None
        self._texts: list[str] = []

    def see(self, event: Any) -> dict[str, Any] | None:
        """A call, with the event that completes it."""
        if isinstance(event, CallStarted):
            self._started, self._texts = event, []
        elif isinstance(event, ArgumentsDelta):
            self._texts.append(event.text)
        elif isinstance(event, CallEnded) and self._started is not None:
            function = {"index": event.index, "name": self._started.name, "arguments": _arguments("".join(self._texts))}
            return {"id": self._started.id, "function": function}
        return None


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
