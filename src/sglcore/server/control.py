"""Health, information and control endpoints, under SGLang's names."""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sglcore.config import ServerConfig
from sglcore.contracts.routes import RouteEntry
from sglcore.errors import EngineDead, RequestError, SglcoreError
from sglcore.isolation import Faults
from sglcore.native.answer import WEIGHT_VERSION
from sglcore.request import GenerateRequest, SamplingParams, pack_ids
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.generation import new_rid

HEALTH_SECONDS = 20.0
INFO_SECONDS = 5.0
SECRET = re.compile(r"key|token$|secret|password|credential", re.IGNORECASE)
MASK = "********"


def health_routes(face: Face) -> list[RouteEntry]:
    async def health(_: Request) -> Response:
        if not face.context.engine.healthy:
            raise EngineDead("")
        return Response()

    async def health_generate(request: Request) -> Response:
        await while_connected(request.receive, _generate_one(face))
        return Response()

    return [
        RouteEntry("/health", health, ("GET",), "public"),
        RouteEntry("/health_generate", health_generate, ("GET",), "public"),
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
    async def model_info(_: Request) -> Response:
        return json_response(_model_info(face))

    async def server_info(_: Request) -> Response:
        engine = await _engine_info(face)
        decisions = engine.pop("decisions", None)
        return json_response(
            redacted(face.context.config)
            | {
                "version": _version(),
                "decisions": decisions,
                "internal_states": [engine],
                "ignored_request_fields": face.metrics.ignored,
                "plugin_plan": plan,
                "plugin_errors": faults.rows(),
                **face.vitals.facts(),
            }
        )

    pairs = (("model_info", model_info), ("server_info", server_info))
    return [RouteEntry(f"/{old}{name}", call, ("GET",), "user") for name, call in pairs for old in ("", "get_")]


def _model_info(face: Face) -> dict[str, Any]:
    config, model = face.context.config, face.model
    return {
        "model_path": model.path,
        "tokenizer_path": config.tokenizer_path or model.path,
        "served_model_name": model.name,
        "is_generation": True,
        "preferred_sampling_params": None,
        "default_sampling_params": model.sampling_defaults,
        "weight_version": WEIGHT_VERSION,
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "architectures": list(model.architectures),
        "max_model_len": model.context_length,
        "vocab_size": model.vocab_size,
    }


async def _engine_info(face: Face) -> dict[str, Any]:
    try:
        async with asyncio.timeout(INFO_SECONDS):
            return dict(await face.context.engine.call("info"))
    except (SglcoreError, TimeoutError) as error:
        return {"error": str(error) or "The engine did not answer."}


def redacted(config: ServerConfig) -> dict[str, Any]:
    """The configuration with everything that looks like a secret masked, in plugins' options as well."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    for name in ("api_key", "admin_api_key"):
        if plain.get(name) is not None:
            plain[name] = MASK
    plain["extras"] = _masked(plain.get("extras", {}))
    return plain


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: MASK if v is not None and SECRET.search(str(k)) else _masked(v) for k, v in value.items()}
    return [_masked(v) for v in value] if isinstance(value, list) else value


def _version() -> str:
    try:
        return version("sglcore")
    except PackageNotFoundError:
        return "unknown"
