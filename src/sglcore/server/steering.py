"""Endpoints that steer the engine: flush, abort, pause and continue, under SGLang's names."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sglcore.contracts.routes import RouteEntry
from sglcore.contracts.services import EngineClient
from sglcore.errors import RequestError
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openapi_control import Aborted, Done, switch
from sglcore.server.openapi_shapes import TEXT
from sglcore.server.query import body_or_query
from sglcore.server.schemas import AbortFields, FlushFields, PauseFields

RETRY = 0.05  # seconds between two attempts to flush a busy engine


def admin_routes(face: Face) -> list[RouteEntry]:
    engine = face.context.engine

    async def flush_cache(request: Request) -> Response:
        await _flush(engine, (await body_or_query(request, FlushFields)).timeout)
        return PlainTextResponse("Cache flushed.\n")

    async def abort_request(request: Request) -> Response:
        asked = await body_or_query(request, AbortFields)
        if not asked.rid and not asked.abort_all:
            raise RequestError("Give `rid`, or `abort_all` true.", param="rid")
        message = (asked.abort_message,) if asked.abort_message else ()
        met = await engine.abort("" if asked.abort_all else asked.rid, *message)
        return json_response({"aborted": met})

    async def pause_generation(request: Request) -> Response:
        mode = (await body_or_query(request, PauseFields)).mode
        await engine.call("pause_generation", mode=mode)
        return json_response({"status": "ok", "message": f"Generation is paused (mode {mode})."})

    async def continue_generation(_: Request) -> Response:
        await engine.call("continue_generation")
        return json_response({"status": "ok", "message": "Generation goes on."})

    flushing = switch("Empty the prefix cache of an idle engine", str, FlushFields, media=TEXT)
    aborting = switch("Abort requests", Aborted, AbortFields)
    pausing = switch("Pause the engine", Done, PauseFields)
    going_on = switch("Go on after a pause", Done)
    return [
        RouteEntry("/flush_cache", flush_cache, ("GET", "POST"), "admin", doc=flushing),
        RouteEntry("/abort_request", abort_request, ("POST",), "admin", doc=aborting),
        RouteEntry("/pause_generation", pause_generation, ("POST",), "admin", doc=pausing),
        RouteEntry("/continue_generation", continue_generation, ("POST",), "admin", doc=going_on),
    ]


async def _flush(engine: EngineClient, timeout: float) -> None:
    """Flush, waiting up to `timeout` seconds for the engine to be idle. Raises RequestError if it is still busy."""
    end = time.monotonic() + timeout
    while True:
        try:
            await engine.call("flush_cache")
            return
        except RequestError as error:
            if error.code != "busy" or time.monotonic() >= end:
                raise
            await asyncio.sleep(RETRY)
