"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import RequestError
from sglcore.request import GenerateRequest
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.branch_parser import Parsing
from sglcore.server.chat_answer import ChatAnswer
from sglcore.server.chat_tools import parsing_of, shown_tools
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.generation import new_rid
from sglcore.server.openai import check_model, sampling_of, to_ask
from sglcore.server.schemas import ChatFields, convert
from sglcore.server.sse import EventStream
from sglcore.text.chat_template import RESERVED


def chat_routes(face: Face) -> list[RouteEntry]:
    async def chat_completions(request: Request) -> Response:
        fields = await read_ask(request)
        absent.check_fields(fields, ChatFields.__struct_fields__, absent.CHAT, face.metrics)
        asked = convert(fields, ChatFields)
        check_model(face.model, asked.model)
        answer = ChatAnswer(face, asked, *await _prepare(face, asked))
        if asked.stream:
            return EventStream(answer.events())
        return json_response(await while_connected(request.receive, answer.whole()))

    return [RouteEntry("/v1/chat/completions", chat_completions, ("POST",), "user")]


async def _prepare(face: Face, asked: ChatFields) -> tuple[GenerateRequest, Parsing]:
    if asked.top_logprobs and not asked.logprobs:
        raise RequestError("`top_logprobs` needs `logprobs` true.", param="top_logprobs", remedy="Set it.")
    param = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    limit: int | None = getattr(asked, param)
    if limit == 0:
        raise RequestError(f"`{param}` must be at least 1; it is 0.", param=param)
    tools = shown_tools(face, asked)
    arguments = _template_arguments(face, asked) | ({"tools": tools} if tools else {})
    prompt, ids = await face.prompts.render(asked.messages, arguments)
    room = face.prompts.fit(ids, limit, default=None, prompt="messages", param=param)
    sampling = sampling_of(face, asked, room)
    parsing = parsing_of(face, asked, tools, prompt)
    if parsing.special:
        sampling = msgspec.structs.replace(sampling, skip_special_tokens=False)
    rid = asked.rid or new_rid("chatcmpl-")
    return to_ask(asked, ids, rid, sampling, top=(asked.top_logprobs or 0) if asked.logprobs else None), parsing


def _template_arguments(face: Face, asked: ChatFields) -> dict[str, Any]:
    """chat_template_kwargs that the template reads; its fixed names are refused, names it does not know counted."""
    given = dict(asked.chat_template_kwargs)
    if asked.reasoning_effort is not None:
        given.setdefault("reasoning_effort", asked.reasoning_effort)
    allowed: frozenset[str] = face.prompts.text.template_variables
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
