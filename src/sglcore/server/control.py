"""Health, information and control endpoints, under SGLang's names."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import EngineDead, RequestError, SglcoreError
from sglcore.isolation import Faults
from sglcore.native.facts import model_info, redacted, version
from sglcore.request import GenerateRequest, SamplingParams, pack_ids
from sglcore.server.counts import Counts, summed
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.generation import new_rid
from sglcore.server.openapi_control import HEALTH, HEALTH_GENERATE, SERVER, ModelFacts, ServerFacts
from sglcore.server.openapi_shapes import fetched

HEALTH_SECONDS = 20.0
INFO_SECONDS = 5.0


def health_routes(face: Face) -> list[RouteEntry]:
    async def health(_: Request) -> Response:
        if not face.context.engine.healthy:
            raise EngineDead("")
        return Response()

    async def health_generate(request: Request) -> Response:
        await while_connected(request.receive, _generate_one(face))
        return Response()

    return [
        RouteEntry("/health", health, ("GET",), "public", doc=HEALTH),
        RouteEntry("/health_generate", health_generate, ("GET",), "public", doc=HEALTH_GENERATE),
    ]


async def _generate_one(face: Face) -> None:
    """One token from one token. Raises RequestError 503 if that does not work in HEALTH_SECONDS."""
    sampling = SamplingParams(max_new_tokens=1, temperature=0.0, ignore_eos=True)
    ask = GenerateRequest(rid=new_rid("health-"), input_ids=pack_ids([0]), sampling=sampling)
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            await face.generation.collect([ask])
    except TimeoutError:
        raise RequestError(
            f"The engine generated no token within {HEALTH_SECONDS:g} s.", status=503, code="unhealthy"
        ) from None
    except RequestError as error:
        raise RequestError(f"The engine could not generate: {error}", status=503, code="unhealthy") from None


def info_routes(face: Face, faults: Faults, plan: str) -> list[RouteEntry]:
    async def model_facts(_: Request) -> Response:
        return json_response(model_info(face.context.config, face.model, face.settings.now.weight_version))

    async def server_info(_: Request) -> Response:
        engine = await _engine_info(face)
        decisions = engine.pop("decisions", None)
        counted = await _counted(face, faults)
        return json_response(
            redacted(face.context.config)
            | face.settings.now.engine
            | {
                "weight_version": face.settings.now.weight_version,
                "version": version(),
                "decisions": decisions,
                "internal_states": [engine],
                "ignored_request_fields": counted.ignored,
                "plugin_plan": plan,
                "plugin_errors": counted.faults,
                **face.vitals.facts(),
                **_worker(face),
            }
        )

    told = (
        ("model_info", model_facts, fetched(SERVER, "The model", ModelFacts)),
        ("server_info", server_info, fetched(SERVER, "Configuration and state, secrets masked", ServerFacts)),
    )
    return [
        RouteEntry(f"/{old}{name}", call, ("GET",), "user", doc=doc) for name, call, doc in told for old in ("", "get_")
    ]


async def _counted(face: Face, faults: Faults) -> Counts:
    """What is counted in processes, of all of them."""
    if face.peers is None:
        return Counts(faults=faults.rows(), ignored=face.metrics.ignored)
    return summed([face.metrics.counts(), *await face.peers.counts()])


def _worker(face: Face) -> dict[str, Any]:
    if face.peers is None:
        return {}
    return {"api_worker": face.peers.index, "api_worker_restarts": face.peers.worker_restarts}


async def _engine_info(face: Face) -> dict[str, Any]:
    try:
        async with asyncio.timeout(INFO_SECONDS):
            return dict(await face.context.engine.call("info"))
    except (SglcoreError, TimeoutError) as error:
        return {"error": str(error) or "The engine did not answer."}
