"""POST /start_profile and /stop_profile: torch's profiler over the engine's steps, as Chrome traces in a folder."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import RequestError
from sglcore.native.profiler import MOST_STEPS, SUFFIX
from sglcore.request import INT32_MAX
from sglcore.server.absent import unsupported
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openapi_control import Profile, switch
from sglcore.server.query import body_or_query

WRITE_SECONDS = 300.0  # for a trace to be written
LOOK_SECONDS = 0.1

FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class ProfileFields(Struct, kw_only=True):
    """SGLang's. What asks for a feature that is not there is refused."""

    output_dir: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    num_steps: Annotated[int, Meta(ge=1, le=MOST_STEPS)] | None = None
    start_step: Annotated[int, Meta(ge=0, le=INT32_MAX)] | None = None
    activities: Annotated[list[Literal["CPU", "GPU"]], Meta(min_length=1, max_length=2)] | None = None
    with_stack: bool = False
    record_shapes: bool = False
    profile_id: FileName | None = None
    profile_prefix: FileName | None = None
    profile_by_stage: bool = False
    merge_profiles: bool = False


def profile_routes(face: Face) -> list[RouteEntry]:
    engine = face.context.engine

    async def start_profile(request: Request) -> Response:
        asked = await body_or_query(request, ProfileFields)
        for name in ("profile_by_stage", "merge_profiles"):
            if getattr(asked, name):
                raise unsupported(name, "metrics_sinks")
        path = await asyncio.to_thread(_path, face.context.config.torch_profiler_dir, asked)
        plan = {
            "path": str(path),
            "activities": asked.activities or ["CPU"],
            "num_steps": asked.num_steps or MOST_STEPS,
            "start_step": asked.start_step,
            "with_stack": asked.with_stack,
            "record_shapes": asked.record_shapes,
        }
        state = await engine.call("start_profile", plan=plan)
        return json_response({"success": True, "message": "Start profiling.", "path": state["path"]})

    async def stop_profile(_: Request) -> Response:
        state = await _written(engine, await engine.call("stop_profile"))
        if state["error"]:
            raise RequestError(
                f"The profile could not be written: {state['error']}.", status=500, code="profile_failed"
            )
        message = "Stop profiling." if state["path"] else "Stop profiling: no step was run, nothing was written."
        return json_response(
            {"success": True, "message": message, "path": state["path"] or None, "steps": state["steps"]}
        )

    starting = switch("Begin to profile the engine's steps", Profile, ProfileFields)
    stopping = switch("Write the profile", Profile, refusals=(400, 503, 504))
    return [
        RouteEntry("/start_profile", start_profile, ("GET", "POST"), "admin", doc=starting),
        RouteEntry("/stop_profile", stop_profile, ("GET", "POST"), "admin", doc=stopping),
    ]


async def _written(engine: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The state once the trace is whole. Raises RequestError 504 where that takes too long."""
    limit = time.monotonic() + WRITE_SECONDS
    while state["writing"]:
        if time.monotonic() > limit:
            raise RequestError(f"The profile is still being written after {WRITE_SECONDS:.0f} s.", status=504)
        await asyncio.sleep(LOOK_SECONDS)
        state = await engine.call("profile_state")
    return state


def _path(allowed: str | None, asked: ProfileFields) -> Path:
    """Where the trace goes: a new file in `output_dir`, which is the operator's folder or below it; made if need be.

    Raises RequestError.
    """
    if not allowed:
        raise RequestError(
            "This server was started without a folder for profiles.",
            param="output_dir",
            code="profiler_disabled",
            remedy="Start it with --torch-profiler-dir FOLDER (or SGLCORE_TORCH_PROFILER_DIR).",
        )
    root = Path(allowed).resolve()
    folder = (root / (asked.output_dir or ".")).resolve()  # a link that leads out is seen as where it leads
    if not folder.is_relative_to(root):
        raise RequestError(
            "`output_dir` is not below the folder that this server was given for profiles.",
            param="output_dir",
            remedy="Give a path relative to it, or leave it out.",
        )
    name = "-".join(part for part in (asked.profile_prefix, asked.profile_id or f"{time.time():.6f}", "TP-0") if part)
    path = folder / (name + SUFFIX)
    if path.exists():
        raise RequestError(f"There is a profile {path.name} already.", param="profile_id", remedy="Send another.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"`output_dir` cannot be made: {error.strerror or type(error).__name__}.", param="output_dir"
        ) from None
    return path
