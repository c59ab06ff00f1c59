"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.engine.branch_text import Piece
from sglcore.engine.chat_template import RESERVED
from sglcore.errors import RequestError
from sglcore.request import FinishReason, GenerateRequest
from sglcore.server import absent
from sglcore.server.body import read_json
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.generation import new_rid
from sglcore.server.openai import check_model, finish_fields, openai_body, to_ask, unix_now
from sglcore.server.params import sampling_params
from sglcore.server.schemas import ChatFields, convert
from sglcore.server.sse import EventStream, event
from sglcore.server.usage import Usage


def chat_routes(face: Face) -> list[RouteEntry]:
    async def chat_completions(request: Request) -> Response:
        fields = await read_json(request)
        absent.check_fields(fields, ChatFields.__struct_fields__, absent.CHAT, face.metrics)
        asked = convert(fields, ChatFields)
        check_model(face.model, asked.model)
        answer = ChatAnswer(face, asked, await _prepare(face, asked))
        if asked.stream:
            return EventStream(answer.events())
        return json_response(await while_connected(request.receive, answer.whole()))

    return [RouteEntry("/v1/chat/completions", chat_completions, ("POST",), "user")]


async def _prepare(face: Face, asked: ChatFields) -> GenerateRequest:
    if asked.top_logprobs and not asked.logprobs:
        raise RequestError("`top_logprobs` needs `logprobs` true.", param="top_logprobs", remedy="Set it.")
    param = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    limit: int | None = getattr(asked, param)
    if limit == 0:
        raise RequestError(f"`{param}` must be at least 1; it is 0.", param=param)
    ids = await face.prompts.render(asked.messages, _template_arguments(face, asked))
    room = face.prompts.fit(ids, limit, default=None, prompt="messages", param=param)
    sampling = sampling_params(asked, face.model, max_new_tokens=room, seed=asked.seed)
    rid = asked.rid or new_rid("chatcmpl-")
    return to_ask(asked, ids, rid, sampling, top=(asked.top_logprobs or 0) if asked.logprobs else None)


def _template_arguments(face: Face, asked: ChatFields) -> dict[str, Any]:
    """chat_template_kwargs that the template reads; its fixed names are refused, names it does not know counted."""
    given = dict(asked.chat_template_kwargs)
    if asked.reasoning_effort is not None:
        given.setdefault("reasoning_effort", asked.reasoning_effort)
    allowed: frozenset[str] = getattr(face.prompts.text, "template_variables", frozenset(given))
    for name in given:
        if name in RESERVED:
            raise RequestError(
                f"`chat_template_kwargs.{name}` is set by the server.", param=f"chat_template_kwargs.{name}"
            )
    face.metrics.count_ignored([f"chat_template_kwargs.{name}" for name in given if name not in allowed])
    return {name: value for name, value in given.items() if name in allowed} | {
        "add_generation_prompt": asked.add_generation_prompt,
        "continue_final_message": asked.continue_final_message,
    }


class ChatAnswer:
    """Writes the answer of one chat request, whole or in chunks."""

    def __init__(self, face: Face, asked: ChatFields, ask: GenerateRequest) -> None:
        self._face = face
        self._asked = asked
        self._ask = ask
        self._created = unix_now()
        self._usage = Usage([len(ask.token_ids())])
        self._greeted: set[int] = set()

    async def whole(self) -> dict[str, Any]:
        (pieces,) = await self._face.generation.collect([self._ask])
        for piece in pieces:
            self._usage.see(piece)
        body = self._body("chat.completion", [self._choice(piece) for piece in pieces])
        return body | {"usage": self._usage.body()}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.branch,
            "message": {"role": "assistant", "content": piece.text, "tool_calls": None, "reasoning_content": None},
            "logprobs": self._face.names.chat(piece.logprobs) if self._asked.logprobs else None,
            **finish_fields(piece.finish),
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
        if piece.text or piece.logprobs:
            logprobs = self._face.names.chat(piece.logprobs) if self._asked.logprobs and piece.logprobs else None
            chunks.append(self._chunk(piece.branch, {"content": piece.text}, logprobs))
        if piece.finish is not None:
            chunks.append(self._chunk(piece.branch, {}, finish=piece.finish))
        return chunks

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: FinishReason | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, **finish_fields(finish)}
        return self._body("chat.completion.chunk", [choice]) | self._chunk_usage()

    def _chunk_usage(self) -> dict[str, Any]:
        options = self._asked.stream_options
        if options and options.continuous_usage_stats:
            return {"usage": self._usage.body()}
        return {"usage": None} if options and options.include_usage else {}

    def _body(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return openai_body(kind, self._ask.rid, self._created, self._face.model, choices)
