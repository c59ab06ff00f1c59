"""The answer of one chat request in OpenAI's shape, whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.request import FinishReason, GenerateRequest
from sglcore.server.branch_events import branches_of
from sglcore.server.branch_parser import Parsing
from sglcore.server.face import Face
from sglcore.server.generation import new_rid
from sglcore.server.openai import finish_fields, openai_body, unix_now
from sglcore.server.openai_extras import Extras
from sglcore.server.schemas import ChatFields
from sglcore.server.sse import Frame, event
from sglcore.server.usage import Usage
from sglcore.text.branch_text import Piece


class ChatAnswer:
    """Writes the answer of one chat request. Used once, for `whole` or for `events`."""

    def __init__(self, face: Face, asked: ChatFields, ask: GenerateRequest, parsing: Parsing) -> None:
        self._face = face
        self._asked = asked
        self._ask = ask
        self._created = unix_now()
        self._usage = Usage([len(ask.token_ids())], cached_details=asked.return_cached_tokens_details)
        self._extras = Extras(asked, [ask], face.settings.now.weight_version)
        self._greeted: set[int] = set()
        self._branches = branches_of(parsing, ask.n)
        self._thinks = parsing.reasoning is not None
        options = asked.stream_options
        shown = asked.logprobs or asked.return_token_ids or asked.return_meta_info or asked.return_hidden_states
        self._bare = not (shown or (options and options.continuous_usage_stats))  # no chunk tells more than text
        self._frames: dict[tuple[int, str], Frame] = {}

    async def whole(self) -> dict[str, Any]:
        (pieces,) = await self._face.generation.collect([self._ask])
        for piece in pieces:
            self._usage.see(piece)
            self._extras.see(piece)
        choices = [self._choice(piece) for piece in pieces]
        await self._count_thoughts()
        body = self._body("chat.completion", choices) | {"usage": self._usage.body()}
        body |= self._extras.prompt() | self._extras.body()
        warnings = [warning for branch in range(len(self._branches)) for warning in self._warnings(branch)]
        return body | ({"warnings": warnings} if warnings else {})

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.branch,
            "message": {"role": "assistant", **self._message(piece)},
            "logprobs": self._face.names.chat(piece.logprobs) if self._asked.logprobs else None,
            **self._finish(piece.branch, piece.finish),
            **self._extras.tokens(piece),
            **self._extras.end(piece),
        }

    def _message(self, piece: Piece) -> dict[str, Any]:
        branch = self._branches[piece.branch]
        events = branch.whole(piece)
        content = _texts(events, TextDelta)
        return {
            "content": content if branch.parsed else content or "",
            "tool_calls": [_call(started, arguments) for started, arguments in branch.calls.pairs()] or None,
            "reasoning_content": _texts(events, ReasoningDelta),
        }

    async def events(self) -> AsyncGenerator[bytes, None]:
        options = self._asked.stream_options
        async with aclosing(self._face.generation.run([self._ask], stream=True)) as steps:
            async for pieces in steps:
                chunks = [chunk for piece in pieces for chunk in self._chunks(piece)]
                if chunks:
                    yield b"".join(chunks)
        if options and options.include_usage:
            await self._count_thoughts()
            yield event(self._body("chat.completion.chunk", []) | {"usage": self._usage.body()})

    def _chunks(self, piece: Piece) -> list[bytes]:
        if self._bare and piece.finish is None and piece.branch in self._greeted:
            branch = self._branches[piece.branch]
            if not branch.parsed:
                return [self._frame(piece.branch, "content").event(piece.text)] if piece.text else []
            return [self._framed(piece.branch, e) for e in branch.take(piece) if _told(e)]
        self._usage.see(piece)
        self._extras.see(piece)
        return [event(chunk) for chunk in self._whole_chunks(piece)]

    def _framed(self, branch: int, e: Any) -> bytes:
        """What `_whole_chunks` makes of an event that has nothing beside it, most of it encoded before."""
        key = "content" if isinstance(e, TextDelta) else "reasoning_content" if isinstance(e, ReasoningDelta) else ""
        if not key:
            return event(self._chunk(branch, _delta(e) or {}))
        return self._frame(branch, key).event(e.text)

    def _frame(self, branch: int, key: str) -> Frame:
        frame = self._frames.get((branch, key))
        if frame is None:
            mark = new_rid("mark-")
            frame = self._frames[branch, key] = Frame(self._chunk(branch, {key: mark}), mark)
        return frame

    def _whole_chunks(self, piece: Piece) -> list[dict[str, Any]]:
        chunks = []
        if piece.branch not in self._greeted:
            self._greeted.add(piece.branch)
            greeting = self._chunk(piece.branch, {"role": "assistant", "content": ""})
            chunks.append(greeting | (self._extras.prompt() if len(self._greeted) == 1 else {}))
        deltas = self._deltas(piece)
        beside = self._beside(piece)
        for i, delta in enumerate(deltas or ([{"content": ""}] if beside else [])):
            chunks.append(self._chunk(piece.branch, delta, beside if i == 0 else {}))
        if piece.finish is not None:
            chunks.append(self._chunk(piece.branch, {}, self._extras.end(piece), finish=piece.finish))
        return chunks

    def _beside(self, piece: Piece) -> dict[str, Any]:
        """What a piece's tokens bring beside text, for the first of its chunks."""
        logprobs = self._face.names.chat(piece.logprobs) if self._asked.logprobs and piece.logprobs else None
        shown = {"logprobs": logprobs} if logprobs else {}
        return shown | (self._extras.tokens(piece) if piece.token_ids else {})

    def _deltas(self, piece: Piece) -> list[dict[str, Any]]:
        """What a piece adds to the message."""
        events = self._branches[piece.branch].take(piece)
        return [delta for e in events if (delta := _delta(e)) is not None]

    async def _count_thoughts(self) -> None:
        if self._thinks:
            thoughts = ["".join(branch.thought) for branch in self._branches]
            self._usage.reasoning = await self._face.prompts.count(thoughts)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        beside: dict[str, Any] | None = None,
        finish: FinishReason | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, **self._finish(index, finish)} | (beside or {})
        body = self._body("chat.completion.chunk", [choice]) | self._extras.chunk() | self._chunk_usage()
        warnings = self._warnings(index) if finish is not None else []
        return body | ({"warnings": warnings} if warnings else {})

    def _finish(self, branch: int, finish: FinishReason | None) -> dict[str, Any]:
        fields = finish_fields(finish)
        if finish is not None:
            fields["finish_reason"] = self._branches[branch].reason(finish)
        return fields

    def _warnings(self, branch: int) -> list[dict[str, Any]]:
        return [warning | {"choice": branch} for warning in self._branches[branch].warnings]

    def _chunk_usage(self) -> dict[str, Any]:
        options = self._asked.stream_options
        if options and options.continuous_usage_stats:
            return {"usage": self._usage.body()}
        return {"usage": None} if options and options.include_usage else {}

    def _body(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return openai_body(kind, self._ask.rid, self._created, self._face.model, choices)


def _call(started: CallStarted, arguments: str) -> dict[str, Any]:
    function = {"name": started.name, "arguments": arguments}
    return {"index": started.index, "id": started.id, "type": "function", "function": function}


def _told(e: Any) -> bool:
    """Whether an event makes a delta."""
    return not isinstance(e, CallEnded)


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
