"""POST /v1/responses and what is asked of responses that are kept. The document is OpenAI's Responses API reference."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import Problem, RouteEntry
from sglcore.errors import RequestError
from sglcore.server import openapi_responses as docs
from sglcore.server.body import TENANT_HEADER, read_ask
from sglcore.server.chat import prompt_ids
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.http_service import ByteStream
from sglcore.server.response_fields import ResponseFields, chat_body, in_our_words, read_fields
from sglcore.server.response_input import input_items, messages_of, prompt_messages
from sglcore.server.response_run import BUSY, Making, ResponseRuns
from sglcore.server.response_store import LocalResponses, ResponseStore
from sglcore.server.response_writer import encoded

MAX_LISTED = 100
LISTED = 20


def response_routes(face: Face) -> list[RouteEntry]:
    store: ResponseStore | None = getattr(face.context, "responses", None)
    routes = ResponseRoutes(face, ResponseRuns(face, store or LocalResponses(face.context.config.response_store_size)))
    at = "/v1/responses"
    return [
        RouteEntry(at, routes.create, ("POST",), "user", doc=docs.create(ResponseFields)),
        RouteEntry(f"{at}/input_tokens", routes.count, ("POST",), "user", doc=docs.count(ResponseFields)),
        RouteEntry(f"{at}/{{response_id}}", routes.retrieve, ("GET",), "user", doc=docs.RETRIEVE),
        RouteEntry(f"{at}/{{response_id}}", routes.delete, ("DELETE",), "user", doc=docs.DELETE),
        RouteEntry(f"{at}/{{response_id}}/cancel", routes.cancel, ("POST",), "user", doc=docs.CANCEL),
        RouteEntry(f"{at}/{{response_id}}/input_items", routes.items, ("GET",), "user", doc=docs.ITEMS),
    ]


class ResponseRoutes:
    """The endpoints over what one process makes and one owner keeps."""

    def __init__(self, face: Face, runs: ResponseRuns) -> None:
        self._face = face
        self._runs = runs

    async def create(self, request: Request) -> Response:
        """POST /v1/responses."""
        making = await self._runs.prepare(await read_ask(request))
        if making.asked.background:
            if making.asked.stream:
                raise RequestError(
                    "`background` and `stream` do not go together here.",
                    param="stream",
                    code="unsupported_parameter",
                    remedy="Fetch the response when it is done.",
                )
            return json_response(await self._runs.start(making))
        if making.asked.stream:
            return ByteStream(self._told(making), on_error=_failed)
        return json_response(await while_connected(request.receive, self._runs.whole(making)))

    async def count(self, request: Request) -> Response:
        """POST /v1/responses/input_tokens."""
        body = {"input": []} | await read_ask(request)
        asked = read_fields(self._face, body, keeps=self._runs.store.size > 0)
        messages = await self._runs.conversation(asked, str(body.get("tenant") or ""))
        messages += messages_of(input_items(asked.input))
        try:
            ids = await prompt_ids(self._face, chat_body(asked, body, prompt_messages(asked.instructions, messages)))
        except RequestError as error:
            raise in_our_words(error) from None
        return json_response({"object": "response.input_tokens", "input_tokens": len(ids)})

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/responses/{id}."""
        if request.query_params.get("stream") == "true":
            raise RequestError("A kept response is not streamed again.", param="stream", code="unsupported_parameter")
        record = await self._runs.find(_name(request), _tenant(request))
        return json_response(record.response)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}."""
        name = _name(request)
        await self._runs.find(name, _tenant(request))
        await self._runs.store.delete(name)
        return json_response({"id": name, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """POST /v1/responses/{id}/cancel."""
        name, tenant = _name(request), _tenant(request)
        record = await self._runs.find(name, tenant)
        if not record.response["background"]:
            raise RequestError("Only responses with `background` true can be cancelled.", code="not_in_background")
        if record.response["status"] in BUSY:
            record = self._runs.read(name, await self._runs.store.cancel(name), tenant)
        return json_response(record.response)

    async def items(self, request: Request) -> Response:
        """GET /v1/responses/{id}/input_items."""
        record = await self._runs.find(_name(request), _tenant(request))
        return json_response(_page(record.items, request.query_params))

    async def _told(self, making: Making) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._runs.events(making)) as deliveries:
            async for events in deliveries:
                if events:
                    yield b"".join(map(encoded, events))


def _failed(problem: Problem) -> bytes:
    """An `error` event, for what went wrong outside of a response."""
    return encoded({"type": "error", "code": problem.code, "message": problem.message, "param": problem.param})


def _name(request: Request) -> str:
    return str(request.path_params["response_id"])


def _tenant(request: Request) -> str:
    return request.headers.get(TENANT_HEADER, "")


def _page(items: list[dict[str, Any]], query: Any) -> dict[str, Any]:
    """Part of a list as OpenAI pages it: `limit`, `order` (desc unless told otherwise), `after` an id."""
    limit, order, after = query.get("limit", str(LISTED)), query.get("order", "desc"), query.get("after")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_LISTED):
        raise RequestError(f"`limit` must be from 1 to {MAX_LISTED}.", param="limit")
    if order not in ("asc", "desc"):
        raise RequestError("`order` must be asc or desc.", param="order")
    items = items if order == "asc" else items[::-1]
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise RequestError("`after` names no item of this list.", param="after")
        items = items[ids.index(after) + 1 :]
    shown = items[: int(limit)]
    ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
    return {"object": "list", "data": shown, **ends, "has_more": len(items) > len(shown)}
