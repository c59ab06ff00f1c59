"""Vitals: whether this server lives, and whether it should be sent requests. What orchestrators ask for.

`/livez` fails when only a restart of the whole server would help; `/readyz` fails whenever a request sent now would
wait or be refused: while the engine is restarted, and from the moment a stop was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from starlette.responses import PlainTextResponse, Response

from sglcore.contracts.routes import RouteEntry
from sglcore.contracts.services import EngineClient
from sglcore.errors import RequestError
from sglcore.server.openapi_control import vital

log = logging.getLogger("sglcore.server")

BEAT_LIMIT = 30.0  # seconds without a beat of the engine after which its loop counts as stuck
DRAIN_STEP = 0.05  # seconds between looks at what is still open
RETRY_AFTER = 5


class Watched(Protocol):
    """What a supervisor tells of its engine. `last_beat`: monotonic seconds; `resumed_in`: of the latest restart."""

    last_beat: float
    restarts: int
    resumed_in: float


class Vitals:
    """One per API process, of an engine that somebody may watch."""

    def __init__(self, engine: EngineClient, watched: Watched | None = None) -> None:
        self._engine = engine
        self._watched = watched
        self.draining = False

    def facts(self) -> dict[str, Any]:
        """For `/server_info` and metrics."""
        facts: dict[str, Any] = {"replayed_requests": getattr(self._engine, "replayed", 0)}
        facts["poisoned_requests"] = getattr(self._engine, "poisoned", 0)
        facts["engine_restarts"] = self._watched.restarts if self._watched else 0
        facts["engine_resumed_in"] = self._watched.resumed_in if self._watched else 0.0
        return facts

    def not_live(self) -> str | None:
        """Why this server is beyond help; None while it lives."""
        if not self._engine.healthy:
            return "The engine is dead and is not restarted."
        return None

    def not_ready(self) -> str | None:
        """Why a request should go elsewhere; None when it is welcome."""
        if self.draining:
            return "The server is shutting down."
        if problem := self.not_live():
            return problem
        if not getattr(self._engine, "ready", True):
            return "The engine is being restarted."
        silent = time.monotonic() - self._watched.last_beat if self._watched else 0.0
        return f"The engine has shown no progress for {silent:.0f} s." if silent > BEAT_LIMIT else None

    def check_open(self) -> None:
        """Raises RequestError 503 once a stop was asked for."""
        if self.draining:
            raise RequestError(
                "The server is shutting down.",
                status=503,
                code="shutting_down",
                remedy=f"Ask another, or again in {RETRY_AFTER} s.",
            )

    async def drain(self, open_requests: Callable[[], int], timeout: float) -> int:
        """Stop taking requests and wait for those in flight, at most `timeout` seconds; returns how many are left."""
        self.draining = True
        limit = time.monotonic() + timeout
        while open_requests() and time.monotonic() < limit:
            await asyncio.sleep(DRAIN_STEP)
        return open_requests()


def vital_routes(vitals: Vitals) -> list[RouteEntry]:
    """`/livez`, `/readyz` and its other name `/ready`, open to all."""

    def answer(problem: str | None) -> Response:
        return PlainTextResponse(problem or "ok", 503 if problem else 200)

    async def livez(_: object) -> Response:
        return answer(vitals.not_live())

    async def readyz(_: object) -> Response:
        return answer(vitals.not_ready())

    triples = (
        ("/livez", livez, "Whether this server lives"),
        ("/readyz", readyz, "Whether a request is welcome now"),
        ("/ready", readyz, "Whether a request is welcome now"),
    )
    return [RouteEntry(path, endpoint, ("GET",), "public", doc=vital(about)) for path, endpoint, about in triples]
