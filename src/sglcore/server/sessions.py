"""POST /open_session and /close_session; the engine keeps what they open."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.server.body import read_json
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.generation import new_rid
from sglcore.server.openapi_native import SGLANG
from sglcore.server.openapi_shapes import posted
from sglcore.server.schemas import CloseSessionFields, OpenSessionFields, convert


def session_routes(face: Face) -> list[RouteEntry]:
    engine = face.context.engine

    async def open_session(request: Request) -> Response:
        asked = convert(await read_json(request), OpenSessionFields)
        name = asked.session_id or new_rid("session-")
        opened = await engine.call("open_session", session_id=name, capacity=asked.capacity_of_str_len)
        return json_response(opened)

    async def close_session(request: Request) -> Response:
        asked = convert(await read_json(request), CloseSessionFields)
        await engine.call("close_session", session_id=asked.session_id)
        return Response()

    opening = posted(
        SGLANG,
        "Open a session",
        OpenSessionFields,
        str,
        example={"capacity_of_str_len": 1000},
        refusals=(400, 429, 503),
    )
    closing = posted(SGLANG, "Close a session", CloseSessionFields, None, refusals=(400, 404, 503))
    return [
        RouteEntry("/open_session", open_session, ("POST",), "user", doc=opening),
        RouteEntry("/close_session", close_session, ("POST",), "user", doc=closing),
    ]
