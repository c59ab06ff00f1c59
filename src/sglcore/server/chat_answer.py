"""The answer of one chat request in OpenAI's shape, whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.request import FinishReason, GenerateRequest
from sglcore.server.branch_parser import Parsing, joined
from sglcore.server.face import Face
from sglcore.server.openai import finish_fields, openai_body, unix_now
from sglcore.server.schemas import ChatFields
from sglcore.server.sse import event
from sglcore.server.usage import Usage
from sglcore.text.branch_text import Piece


class ChatAnswer:
    """Writes the answer of one chat request. Used once, for `whole` or for `events`."""

    def __init__(self, face: Face, asked: ChatFields, ask: GenerateRequest, parsing: Parsing) -> None:
        self._face = face
        self._asked = asked
        self._ask = ask
        self._created = unix_now()
        self._usage = Usage([len(ask.token_ids())])
        self._greeted: set[int] = set()
        self._parsers = [parsing.branch(i) for i in range(ask.n)] if parsing else []
        self._calls = [Calls() for _ in range(ask.n)]

    async def whole(self) -> dict[str, Any]:
        (pieces,) = await self._face.generation.collect([self._ask])
        for piece in pieces:
            self._usage.see(piece)
        body = self._body("chat.completion", [self._choice(piece) for piece in pieces]) | {"usage": self._usage.body()}
        warnings = [warning for branch in range(len(self._parsers)) for warning in self._warnings(branch)]
        return body | ({"warnings": warnings} if warnings else {})

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.branch,
            "message": {"role": "assistant", **self._message(piece)},
            "logprobs": self._face.names.chat(piece.logprobs) if self._asked.logprobs else None,
            **self._finish(piece.branch, piece.finish),
        }

    def _message(self, piece: Piece) -> dict[str, Any]:
        if not self._parsers:
            return {"content": piece.text, "tool_calls": None, "reasoning_content": None}
        events = self._parsers[piece.branch].whole(piece.text)
        self._calls[piece.branch].see(events)
        return {
            "content": _texts(events, TextDelta),
            "tool_calls": self._calls[piece.branch].body(),
            "reasoning_content": _texts(events, ReasoningDelta),
        }

    async def events(self) -> AsyncGenerator[bytes, None]:
        options = self._asked.stream_options
        async with aclosing(self._face.generation.run([self._ask], stream=True)) as steps:
            async for pieces in steps:
                chunks = [event(chunk) for piece in pieces for chunk in self._chunks(piece)]
                if chunks:
                    yield b"".join(chunks)
        if options and options.include_usage:
            yield event(self._body("chat.completion.chunk", []) | {"usage": self._usage.body()})

    def _chunks(self, piece: Piece) -> list[dict[str, Any]]:
        self._usage.see(piece)
        chunks = []
        if piece.branch not in self._greeted:
            self._greeted.add(piece.branch)
            chunks.append(self._chunk(piece.branch, {"role": "assistant", "content": ""}))
        deltas = self._deltas(piece)
        logprobs = self._face.names.chat(piece.logprobs) if self._asked.logprobs and piece.logprobs else None
        for i, delta in enumerate(deltas or ([{"content": ""}] if logprobs else [])):
            chunks.append(self._chunk(piece.branch, delta, logprobs if i == 0 else None))
        if piece.finish is not None:
            chunks.append(self._chunk(piece.branch, {}, finish=piece.finish))
        return chunks

    def _deltas(self, piece: Piece) -> list[dict[str, Any]]:
        """What a piece adds to the message."""
        if not self._parsers:
            return [{"content": piece.text}] if piece.text else []
        parser = self._parsers[piece.branch]
        events = parser.feed(piece.text)
        if piece.finish is not None:
            events += parser.finish()
        self._calls[piece.branch].see(events)
        return [delta for e in joined(events) if (delta := _delta(e)) is not None]

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: FinishReason | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, **self._finish(index, finish)}
        body = self._body("chat.completion.chunk", [choice]) | self._chunk_usage()
        warnings = self._warnings(index) if finish is not None and self._parsers else []
        return body | ({"warnings": warnings} if warnings else {})

    def _finish(self, branch: int, finish: FinishReason | None) -> dict[str, Any]:
        fields = finish_fields(finish)
        if finish is not None and finish.type == "stop" and self._calls[branch].complete:
            fields["finish_reason"] = "tool_calls"
        return fields

    def _warnings(self, branch: int) -> list[dict[str, Any]]:
        return [warning | {"choice": branch} for warning in self._parsers[branch].warnings]

    def _chunk_usage(self) -> dict[str, Any]:
        options = self._asked.stream_options
        if options and options.continuous_usage_stats:
            return {"usage": self._usage.body()}
        return {"usage": None} if options and options.include_usage else {}

    def _body(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return openai_body(kind, self._ask.rid, self._created, self._face.model, choices)


class Calls:
    """The calls of one branch, put together."""

    def __init__(self) -> None:
        self._started: list[CallStarted] = []
        self._arguments: list[str] = []
        self._ended = 0

    def see(self, events: list[Any]) -> None:
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

    def body(self) -> list[dict[str, Any]] | None:
        pairs = zip(self._started, self._arguments, strict=True)
        return [_call(started, arguments) for started, arguments in pairs] or None


def _call(started: CallStarted, arguments: str) -> dict[str, Any]:
    function = {"name": started.name, "arguments": arguments}
    return {"index": started.index, "id": started.id, "type": "function", "function": function}


def _texts(events: list[Any], kind: type[TextDelta] | type[ReasoningDelta]) -> str | None:
    return "".join(e.text for e in events if isinstance(e, kind)) or None


def _delta(e: Any) -> dict[str, Any] | None:
    """An event as a delta of OpenAI's; the end of a call has none."""
    if isinstance(e, TextDelta):
        return {"content": e.text}
    if isinstance(e, ReasoningDelta):
        return {"reasoning_content": e.text}
    if isinstance(e, CallStarted):
        return {"tool_calls": [_call(e, "")]}
    if isinstance(e, ArgumentsDelta):
        return {"tool_calls": [{"index": e.index, "function": {"arguments": e.text}}]}
    return None
