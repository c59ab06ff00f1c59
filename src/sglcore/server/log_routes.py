"""POST /configure_logging: what is logged and dumped of requests, in all API workers, under SGLang's names."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteDoc, RouteEntry
from sglcore.server.body import read_json
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.log_settings import LogChanges
from sglcore.server.schemas import convert

DOC = RouteDoc(
    summary="Change what is logged and dumped of requests",
    description="Folders must lie below those that the server was started with; an empty text stops dumping.",
    tag="control",
    body=LogChanges,
    answers={200: {"application/json": LogChanges}},
)


def log_routes(face: Face) -> list[RouteEntry]:
    config = face.context.config

    async def configure_logging(request: Request) -> Response:
        changes = convert(await read_json(request), LogChanges).checked(config)
        await face.settings.change(logging=changes)
        return json_response(changes)

    return [RouteEntry("/configure_logging", configure_logging, ("POST",), "admin", doc=DOC)]
