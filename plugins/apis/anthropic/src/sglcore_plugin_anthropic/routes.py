"""POST /v1/messages and POST /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import Problem, RouteContext, RouteDoc, RouteEntry
from sglcore.errors import RequestError
from sglcore_plugin_anthropic.answer import Answer, frame
from sglcore_plugin_anthropic.ask import Ask, begin, in_our_words, understand
from sglcore_plugin_anthropic.docs import COUNT_TOKENS, MESSAGES
from sglcore_plugin_anthropic.errors import REQUEST_ID, error_body, on_error

KEY_HEADER = "x-api-key"


def routes(context: RouteContext) -> list[RouteEntry]:
    """The dialect over one server."""
    http, chat, model = context.http, context.chat, context.model

    async def read(request: Request, **defaults: Any) -> Ask:
        variables = context.text.template_variables if context.text is not None else frozenset()
        return understand(defaults | await http.read_object(request), variables)

    async def messages(request: Request) -> Response:
        ask = await read(request)
        answer = Answer(await begin(chat, ask, model.context_length), ask, model.name)
        name = f"req_{ask.message_id.removeprefix('msg_')}"
        if not ask.stream:
            body = msgspec.json.encode(await http.while_connected(request, answer.whole()))
            return Response(body, 200, {REQUEST_ID: name}, "application/json")

        def told(problem: Problem) -> bytes:
            body = error_body(problem, name)
            return frame("error", error=body["error"], request_id=name)

        response: Response = http.stream(answer.chunks(), on_error=told, on_early_error=on_error)
        response.headers[REQUEST_ID] = name
        return response

    async def count_tokens(request: Request) -> Response:
        ask = await read(request, max_tokens=1)
        try:
            tokens = await chat.count(ask.body)
        except RequestError as error:
            raise in_our_words(error, ask) from None
        return Response(msgspec.json.encode({"input_tokens": tokens}), 200, media_type="application/json")

    def entry(path: str, endpoint: Any, doc: RouteDoc) -> RouteEntry:
        return RouteEntry(path, endpoint, ("POST",), "user", on_error=on_error, key_header=KEY_HEADER, doc=doc)

    return [entry("/v1/messages", messages, MESSAGES), entry("/v1/messages/count_tokens", count_tokens, COUNT_TOKENS)]
