"""Events of a turn -> content blocks, whole or as server-sent events.

Each event is `event: TYPE`, `data: JSON`, an empty line; the JSON names the type again. A stream is message_start,
ping, then per block content_block_start, content_block_delta ..., content_block_stop, then message_delta and
message_stop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.contracts.services import Turn, TurnEnd
from sglcore.errors import RequestError
from sglcore_plugin_anthropic.ask import Ask

# Anthropic signs thoughts to know them again. Nothing is signed here, and nothing is checked when they come back.
SIGNATURE = "unsigned"
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

_encode = msgspec.json.Encoder().encode


def frame(name: str, **members: Any) -> bytes:
    """One server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **members}))


class Answer:
    """The answer of one request. Used once, for `whole` or for `chunks`."""

    def __init__(self, turn: Turn, ask: Ask, model: str) -> None:
        self._turn = turn
        self._ask = ask
        self._model = model

    async def whole(self) -> dict[str, Any]:
        """The message. Raises RequestError where the turn was aborted."""
        content = Content(self._ask.thoughts)
        end: TurnEnd | None = None
        async with aclosing(self._turn.events(stream=False)) as steps:
            async for events in steps:
                for event in events:
                    if isinstance(event, TurnEnd):
                        end = event
                    else:
                        content.see(event)
        assert end is not None
        return self._message(content.blocks()) | _reason(end) | {"usage": usage(end)} | _warnings(end)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, those of one delivery together. Raises RequestError where the turn was aborted."""
        blocks = Blocks(self._ask.thoughts)
        started = False
        async with aclosing(self._turn.events()) as steps:
            async for events in steps:
                frames = [] if started else self._start()
                started = True
                for event in events:
                    frames += self._end(blocks, event) if isinstance(event, TurnEnd) else blocks.see(event)
                if frames:
                    yield b"".join(frames)

    def _start(self) -> list[bytes]:
        began = usage(TurnEnd(reason="", prompt_tokens=self._turn.prompt_tokens))
        message = self._message([]) | {"stop_reason": None, "stop_sequence": None, "usage": began}
        return [frame("message_start", message=message), frame("ping")]

    def _end(self, blocks: Blocks, end: TurnEnd) -> list[bytes]:
        members = {"delta": _reason(end), "usage": usage(end), **_warnings(end)}
        return [*blocks.close(), frame("message_delta", **members), frame("message_stop")]

    def _message(self, content: list[Any]) -> dict[str, Any]:
        head = {"id": self._ask.message_id, "type": "message", "role": "assistant", "model": self._model}
        return head | {"content": content}


class Blocks:
    """The blocks of one stream: at most one is open."""

    def __init__(self, thoughts: str) -> None:
        self._thoughts = thoughts
        self._index = -1
        self._open = ""  # the type of the open block

    def see(self, event: Any) -> list[bytes]:
        """What a parsed event adds."""
        if isinstance(event, TextDelta):
            return [*self._at("text", text=""), self._delta("text_delta", text=event.text)]
        if isinstance(event, ReasoningDelta):
            return self._thought(event.text)
        if isinstance(event, CallStarted):
            return [*self.close(), *self._at("tool_use", id=call_id(event.id), name=event.name, input={})]
        if isinstance(event, ArgumentsDelta):
            return [self._delta("input_json_delta", partial_json=event.text)]
        return self.close() if isinstance(event, CallEnded) else []

    def close(self) -> list[bytes]:
        """End the open block, if there is one."""
        if not self._open:
            return []
        signed = [self._delta("signature_delta", signature=SIGNATURE)] if self._open == "thinking" else []
        self._open = ""
        return [*signed, frame("content_block_stop", index=self._index)]

    def _thought(self, text: str) -> list[bytes]:
        if self._thoughts == "hidden":
            return []
        begun = self._at("thinking", thinking="", signature="")
        return [*begun, self._delta("thinking_delta", thinking=text)] if self._thoughts == "shown" else begun

    def _at(self, kind: str, **members: Any) -> list[bytes]:
        """Have a block of this type open."""
        if self._open == kind:
            return []
        closed = self.close()
        self._open = kind
        self._index += 1
        return [*closed, frame("content_block_start", index=self._index, content_block={"type": kind, **members})]

    def _delta(self, kind: str, **members: Any) -> bytes:
        return frame("content_block_delta", index=self._index, delta={"type": kind, **members})


class Content:
    """The blocks of one whole answer."""

    def __init__(self, thoughts: str) -> None:
        self._thoughts = thoughts
        self._blocks: list[tuple[dict[str, Any], list[str]]] = []  # each with its texts so far

    def see(self, event: Any) -> None:
        """Take a parsed event in."""
        if isinstance(event, TextDelta):
            self._at("text").append(event.text)
        elif isinstance(event, ReasoningDelta) and self._thoughts != "hidden":
            self._at("thinking").append(event.text if self._thoughts == "shown" else "")
        elif isinstance(event, CallStarted):
            self._blocks.append(({"type": "tool_use", "id": call_id(event.id), "name": event.name}, []))
        elif isinstance(event, ArgumentsDelta):
            self._blocks[-1][1].append(event.text)

    def blocks(self) -> list[dict[str, Any]]:
        """As the message has them."""
        return [_block(block, "".join(texts)) for block, texts in self._blocks]

    def _at(self, kind: str) -> list[str]:
        if not self._blocks or self._blocks[-1][0]["type"] != kind:
            self._blocks.append(({"type": kind}, []))
        return self._blocks[-1][1]


def _block(block: dict[str, Any], text: str) -> dict[str, Any]:
    if block["type"] == "text":
        return block | {"text": text}
    if block["type"] == "thinking":
        return block | {"thinking": text, "signature": SIGNATURE}
    return block | {"input": _arguments(text)}


def _arguments(text: str) -> dict[str, Any]:
    """A call's arguments; none where they were cut off, which the stop reason tells."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def call_id(given: str) -> str:
    """The id of a call as Anthropic writes them."""
    return f"toolu_{given.removeprefix('call_')}"


def _reason(end: TurnEnd) -> dict[str, Any]:
    if end.reason not in STOP_REASONS:
        raise RequestError(end.message or "The request was aborted.", status=503, code="aborted")
    if end.reason == "stop" and isinstance(end.matched, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": end.matched}
    return {"stop_reason": STOP_REASONS[end.reason], "stop_sequence": None}


def usage(end: TurnEnd) -> dict[str, Any]:
    """Tokens, those read from the prefix cache told apart from the rest of the prompt."""
    return {
        "input_tokens": end.prompt_tokens - end.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": end.cached_tokens,
        "output_tokens": end.completion_tokens,
    }


def _warnings(end: TurnEnd) -> dict[str, Any]:
    return {"warnings": end.warnings} if end.warnings else {}
