"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import dataclass
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
from sglcore.server.openai import check_extras, check_model, sampling_of, to_ask
from sglcore.server.openapi_openai import HELLO, OPENAI, ChatChunk, ChatCompletion
from sglcore.server.openapi_shapes import ASKING, posted
from sglcore.server.schemas import ChatFields, convert
from sglcore.server.sse import EventStream
from sglcore.text.chat_template import RESERVED

# What a prompt is made of.
PROMPT_FIELDS = frozenset(
    {
        "model",
        "messages",
        "input_ids",
        "thinking",
        "tools",
        "tool_choice",
        "chat_template_kwargs",
        "reasoning_effort",
        "add_generation_prompt",
        "continue_final_message",
    }
)


@dataclass(frozen=True)
class Chat:
    """A chat request that was checked and tokenized."""

    asked: ChatFields
    ask: GenerateRequest
    parsing: Parsing


def chat_routes(face: Face) -> list[RouteEntry]:
    async def chat_completions(request: Request) -> Response:
        chat = await prepare_chat(face, await read_ask(request))
        answer = ChatAnswer(face, chat.asked, chat.ask, chat.parsing)
        if chat.asked.stream:
            return EventStream(answer.events())
        return json_response(await while_connected(request.receive, answer.whole()))

    doc = posted(OPENAI, "Answer a chat", ChatFields, ChatCompletion, event=ChatChunk, example=HELLO, refusals=ASKING)
    return [RouteEntry("/v1/chat/completions", chat_completions, ("POST",), "user", doc=doc)]


async def prepare_chat(face: Face, fields: dict[str, Any], prefix: str = "chatcmpl-") -> Chat:
    """From a body to what the engine is asked; `prefix` begins the id of a request that brings none.

    Raises RequestError.
    """
    asked = _read(face, fields)
    if asked.top_logprobs and not asked.logprobs:
        raise RequestError("`top_logprobs` needs `logprobs` true.", param="top_logprobs", remedy="Set it.")
    param = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    limit: int | None = getattr(asked, param)
    if limit == 0:
        raise RequestError(f"`{param}` must be at least 1; it is 0.", param=param)
    check_extras(face, asked)
    tools, prompt, ids = await _prompt(face, asked)
    room = face.prompts.fit(ids, limit, default=None, prompt="messages", param=param)
    sampling = sampling_of(face, asked, room)
    parsing = parsing_of(face, asked, tools, prompt)
    if parsing.special:
        sampling = msgspec.structs.replace(sampling, skip_special_tokens=False)
    ask = to_ask(
        asked, ids, asked.rid or new_rid(prefix), sampling, top=(asked.top_logprobs or 0) if asked.logprobs else None
    )
    return Chat(asked, ask, parsing)


async def prompt_ids(face: Face, fields: dict[str, Any]) -> list[int]:
    """Token ids of the prompt that a body's messages and tools make; what asks for an answer is not looked at."""
    asked = _read(face, {name: value for name, value in fields.items() if name in PROMPT_FIELDS})
    _, _, ids = await _prompt(face, asked)
    return ids


def _read(face: Face, fields: dict[str, Any]) -> ChatFields:
    absent.check_fields(fields, ChatFields.__struct_fields__, absent.CHAT, face.metrics)
    asked = convert({"messages": []} | fields if "input_ids" in fields else fields, ChatFields)
    check_model(face.model, asked.model)
    return asked


async def _prompt(face: Face, asked: ChatFields) -> tuple[list[dict[str, Any]] | None, str, list[int]]:
    """The tools that are shown, and the prompt as text and ids."""
    tools = shown_tools(face, asked)
    if asked.input_ids is not None:  # the caller applied a template itself
        ids = face.prompts.check_ids(asked.input_ids, "input_ids")
        return tools, face.prompts.text.decode(ids, skip_special_tokens=False), ids
    arguments = _template_arguments(face, asked) | ({"tools": tools} if tools else {})
    prompt, ids = await face.prompts.render(asked.messages, arguments)
    return tools, prompt, ids


def _template_arguments(face: Face, asked: ChatFields) -> dict[str, Any]:
    """chat_template_kwargs that the template reads; its fixed names are refused, names it does not know counted."""
    given = _thinking(asked.thinking) | asked.chat_template_kwargs
    if asked.reasoning_effort is not None:
        given.setdefault("reasoning_effort", asked.reasoning_effort)
    allowed: frozenset[str] = face.prompts.text.template_variables
    for name in given:
        if name in RESERVED:
            raise RequestError(
                f"`chat_template_kwargs.{name}` is set by the server.", param=f"chat_template_kwargs.{name}"
            )
    unread = [name for name in given if name not in allowed and not _implied(name, asked)]
    face.metrics.count_ignored([f"chat_template_kwargs.{name}" for name in unread])
    return {name: value for name, value in given.items() if name in allowed} | {
        "add_generation_prompt": asked.add_generation_prompt,
        "continue_final_message": asked.continue_final_message,
    }


def _implied(name: str, asked: ChatFields) -> bool:
    """Whether a template argument is there for `thinking` alone, which says it under several names."""
    return name in ("enable_thinking", "thinking") and name not in asked.chat_template_kwargs


def _thinking(asked: bool | dict[str, Any] | None) -> dict[str, bool]:
    """`thinking`, true, false or {"type": "enabled"}, under the names by which templates ask for it."""
    if asked is None:
        return {}
    kind = asked.get("type") if isinstance(asked, dict) else "enabled" if asked else "disabled"
    if kind not in ("enabled", "disabled"):
        raise RequestError('`thinking` must be true, false or {"type": "enabled" or "disabled"}.', param="thinking")
    return dict.fromkeys(("enable_thinking", "thinking"), kind == "enabled")
