"""How busy the engine is, for load balancers: GET /get_load and /v1/loads, as JSON or as Prometheus text."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import replace
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import EngineDead, RequestError
from sglcore.native.facts import version
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openapi_control import SERVER, Load, Loads
from sglcore.server.openapi_shapes import JSON, TEXT, fetched
from sglcore.server.query import query_fields

LOAD_SECONDS = 5.0
SECTIONS: dict[str, tuple[str, ...]] = {
    "memory": ("cached_pages", "free_pages", "num_sessions", "session_tokens"),
    "queues": ("num_queue_reqs", "num_queue_tokens", "paused", "retractions", "preemptions", "timeouts", "aborted"),
}
# Of features that no engine here has: they may be asked for, and are not there.
EMPTY_SECTIONS = ("spec", "lora", "disagg")
ALL = ("core", *SECTIONS, *EMPTY_SECTIONS, "all")
GAUGES = (
    "num_running_reqs",
    "num_waiting_reqs",
    "num_used_tokens",
    "max_total_num_tokens",
    "token_usage",
    "gen_throughput",
    "cache_hit_rate",
)


class LoadFields(Struct, kw_only=True):
    """The query of /v1/loads."""

    include: Annotated[str, Meta(max_length=256)] = "core"
    format: Literal["json", "prometheus"] = "json"
    dp_rank: Annotated[int, Meta(ge=0, le=65535)] | None = None


def load_routes(face: Face) -> list[RouteEntry]:
    async def get_load(_: Request) -> Response:
        stats = await _stats(face)
        waiting = stats.get("num_queue_reqs", 0)
        load = {
            "dp_rank": 0,
            "num_reqs": stats.get("num_running_reqs", 0) + waiting,
            "num_waiting_reqs": waiting,
            "num_tokens": stats.get("num_used_tokens", 0) + stats.get("num_queue_tokens", 0),
        }
        return json_response([load])

    async def loads(request: Request) -> Response:
        asked = query_fields(request, LoadFields)
        sections = _sections(asked.include)
        if asked.dp_rank:
            raise RequestError(
                f"`dp_rank` is {asked.dp_rank}; this server has one replica, 0.",
                param="dp_rank",
                remedy="Leave it out.",
            )
        load = _load(await _stats(face), sections)
        if asked.format == "prometheus":
            return PlainTextResponse(_prometheus(load), media_type="text/plain; version=0.0.4; charset=utf-8")
        return json_response(_body(load))

    doc = fetched(SERVER, "How busy the engine is, in numbers of your choice", Loads, query=LoadFields, refusals=(503,))
    doc = replace(doc, answers={200: {JSON: Loads, TEXT: str}})
    brief = fetched(SERVER, "How busy the engine is", list[Load], refusals=(503,))
    return [
        RouteEntry("/get_load", get_load, ("GET",), "user", doc=brief),
        RouteEntry("/v1/loads", loads, ("GET",), "user", doc=doc),
    ]


async def _stats(face: Face) -> dict[str, Any]:
    """The engine's counters. Raises EngineDead where it does not answer in time."""
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            return dict(await face.context.engine.call("metrics"))
    except TimeoutError:
        raise EngineDead(f"It did not answer for {LOAD_SECONDS:.0f} s.") from None


def _sections(include: str) -> set[str]:
    names = {name.strip() for name in include.split(",") if name.strip()}
    unknown = sorted(names - set(ALL))
    if unknown:
        raise RequestError(
            f"`include` names {unknown[0]!r}, which is no section.",
            param="include",
            remedy=f"There are: {', '.join(ALL)}.",
        )
    return set(SECTIONS) if "all" in names else names & set(SECTIONS)


def _load(stats: dict[str, Any], sections: set[str]) -> dict[str, Any]:
    """One replica's."""
    numbers = {**stats, "num_waiting_reqs": stats.get("num_queue_reqs", 0)}
    load: dict[str, Any] = {"dp_rank": 0} | {name: numbers.get(name, 0) for name in GAUGES}
    for section in sorted(sections):
        load[section] = {name: stats[name] for name in SECTIONS[section] if name in stats}
    return load


def _body(load: dict[str, Any]) -> dict[str, Any]:
    running, waiting = load["num_running_reqs"], load["num_waiting_reqs"]
    return {
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(),
        "version": version(),
        "dp_rank_count": 1,
        "loads": [load],
        "aggregate": {
            "total_running_reqs": running,
            "total_waiting_reqs": waiting,
            "total_reqs": running + waiting,
            "avg_token_usage": load["token_usage"],
            "avg_throughput": load["gen_throughput"],
        },
    }


def _prometheus(load: dict[str, Any]) -> str:
    """Exposition format 0.0.4: every number as a gauge, sections in the name."""
    flat = {name: load[name] for name in GAUGES}
    for section in SECTIONS:
        flat |= {f"{section}_{name}": value for name, value in load.get(section, {}).items()}
    lines = []
    for name, value in flat.items():
        lines += [f"# TYPE sglcore:load_{name} gauge", f'sglcore:load_{name}{{dp_rank="0"}} {float(value)}']
    return "\n".join(lines) + "\n"
