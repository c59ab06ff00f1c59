"""What may be changed while a server runs: the weights' version, some settings of the scheduler; test switches."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import RequestError
from sglcore.native.dials import read_dials, shown
from sglcore.server.body import read_json
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openapi_control import (
    CONTROL,
    DIALS,
    SERVER,
    InternalState,
    Success,
    WeightVersion,
    WeightVersionSet,
    steered,
    switch,
)
from sglcore.server.openapi_shapes import fetched
from sglcore.server.schemas import convert


class VersionFields(Struct, kw_only=True):
    new_version: Annotated[str, Meta(min_length=1, max_length=256)]
    abort_all_requests: bool = True


class InternalStateFields(Struct, kw_only=True):
    server_args: dict[str, Any]


class SlowDownFields(Struct, kw_only=True):
    forward_sleep_time: Annotated[float, Meta(ge=0, le=60)] | None = None


def settings_routes(face: Face) -> list[RouteEntry]:
    return [*_version_routes(face), *_state_routes(face), *_process_routes(face)]


def _version_routes(face: Face) -> list[RouteEntry]:
    async def weight_version(_: Request) -> Response:
        return json_response({"weight_version": face.settings.now.weight_version})

    async def update_weight_version(request: Request) -> Response:
        asked = convert(await read_json(request), VersionFields)
        message = f"Weights are called {asked.new_version!r} now."
        if asked.abort_all_requests:
            await face.context.engine.abort("", "Aborted: the version of the weights has changed.")
        await face.settings.change(weight_version=asked.new_version)
        return json_response({"success": True, "message": message, "new_version": asked.new_version})

    telling = fetched(SERVER, "What the weights are called", WeightVersion)
    setting = steered("Call the weights something else", WeightVersionSet, VersionFields, example={"new_version": "2"})
    return [
        RouteEntry("/weight_version", weight_version, ("GET",), "user", doc=telling),
        RouteEntry("/get_weight_version", weight_version, ("GET",), "user", doc=telling),
        RouteEntry("/update_weight_version", update_weight_version, ("POST",), "admin", doc=setting),
    ]


def _state_routes(face: Face) -> list[RouteEntry]:
    def standing() -> dict[str, Any]:
        return shown(face.context.config, face.settings.now.engine)

    async def get_internal_state(_: Request) -> Response:
        return json_response({"updated": False, "server_args": standing()})

    async def set_internal_state(request: Request) -> Response:
        asked = convert(await read_json(request), InternalStateFields)
        changes = read_dials(asked.server_args, "server_args.")
        before = standing()
        # Kept before it is told, so that an engine which starts meanwhile has it.
        await face.settings.change(engine=changes)
        try:
            await face.context.engine.call("set_internal_state", values=changes)
        except RequestError as error:
            if error.status < 500:
                await face.settings.change(engine={name: before[name] for name in changes})
            raise
        return json_response({"updated": True, "server_args": standing()})

    telling = fetched(CONTROL, "The settings that may be changed", InternalState)
    setting = steered("Change settings of the scheduler", InternalState, InternalStateFields, example=DIALS)
    return [
        RouteEntry("/set_internal_state", get_internal_state, ("GET",), "admin", doc=telling),
        RouteEntry("/set_internal_state", set_internal_state, ("POST", "PUT"), "admin", doc=setting),
    ]


def _process_routes(face: Face) -> list[RouteEntry]:
    async def freeze_gc(_: Request) -> Response:
        await face.context.engine.call("freeze_gc")
        await face.settings.change(freezes=1)
        return json_response({"success": True, "message": "Garbage collection is frozen in all processes."})

    async def slow_down(request: Request) -> Response:
        seconds = convert(await read_json(request), SlowDownFields).forward_sleep_time or 0.0
        if not face.context.config.enable_slow_down:
            raise RequestError(
                "This server is not to be slowed down.",
                status=403,
                code="slow_down_disabled",
                remedy="It is for tests: start it with --enable-slow-down.",
            )
        await face.context.engine.call("slow_down", seconds=seconds)
        return json_response({"success": True, "message": f"Each step waits {seconds:g} s."})

    freezing = switch("Take what is in memory out of garbage collection", Success)
    slowing = steered("Delay each step, for tests", Success, SlowDownFields, refusals=(400, 403, 503))
    return [
        RouteEntry("/freeze_gc", freeze_gc, ("GET", "POST"), "admin", doc=freezing),
        RouteEntry("/slow_down", slow_down, ("GET", "POST"), "admin", doc=slowing),
    ]
