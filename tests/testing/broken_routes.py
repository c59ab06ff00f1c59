"""Dialects that each break one promise."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import RequestError
from sglcore.request import GenerateRequest, SamplingParams, pack_ids


def sound(context: Any) -> list[RouteEntry]:
    """Completes `text`, and tells how the model is called."""

    async def complete(request: Request) -> Response:
        try:
            body = json.loads(await request.body(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"No JSON: {error}.") from None
        if not isinstance(body, dict) or not isinstance(body.get("text"), str) or not 0 < len(body["text"]) < 100:
            raise RequestError("`text` is not a short text.", param="text")
        ids = context.text.encode(body["text"])
        ask = GenerateRequest(rid="r", input_ids=pack_ids(ids), sampling=SamplingParams(max_new_tokens=2))
        tokens = [token async for step in context.engine.generate(ask) for out in step for token in out.token_ids]
        return JSONResponse({"text": context.text.decode(tokens)})

    async def name(request: Request) -> Response:
        return JSONResponse({"name": context.model.name, "part": request.path_params["part"]})

    return [
        RouteEntry("/sound/complete", complete, ("POST",), "user"),
        RouteEntry("/sound/name/{part}", name, ("GET",), "public"),
    ]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def one(endpoint: Any, path: str = "/x", methods: Any = ("POST",), tier: Any = "user") -> Any:
    return lambda context: [RouteEntry(path, endpoint, methods, tier)]


async def trusts(request: Request) -> Response:
    """No 4xx: whatever is wrong becomes an exception."""
    return JSONResponse({"model": json.loads(await request.body())["model"]})


async def trusts_types(request: Request) -> Response:
    try:
        body = json.loads(await request.body(), parse_constant=_no_constant)
        if not isinstance(body, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError):
        raise RequestError("No JSON object.") from None
    return JSONResponse({"length": len(body.get("text", ""))})


async def accepts(request: Request) -> Response:
    await request.body()
    return JSONResponse({"error": "something is wrong, perhaps"})


async def refuses_in_words(request: Request) -> Response:
    return PlainTextResponse("no", status_code=400)


async def trusts_addresses(request: Request) -> Response:
    return JSONResponse({"number": int(request.path_params["number"])})


async def fails_its_example(request: Request) -> Response:
    raise RequestError("Never.")


async def shows_its_inside(request: Request) -> Response:
    return JSONResponse({"error": "Traceback (most recent call last): ..."}, status_code=400)


def plain(request: Request) -> Response:
    return JSONResponse({})


def hides_a_dead_engine(context: Any) -> list[RouteEntry]:
    async def ask(request: Request) -> Response:
        try:
            await context.engine.call("info")
        except Exception as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse({})

    return one(ask)(context)


trusting = one(trusts)
trusting_types = one(trusts_types)
accepting = one(accepts)
in_words = one(refuses_in_words)
trusting_addresses = one(trusts_addresses, "/x/{number}", ("GET",))
failing = one(fails_its_example)
inside = one(shows_its_inside)
relative = one(accepts, "x")
lower_case = one(accepts, methods=("post",))
one_method = one(accepts, methods="POST")
no_tier = one(accepts, tier="everybody")
not_async = one(plain)
clashing = one(accepts, "/generate")
twice = lambda context: one(accepts)(context) * 2  # noqa: E731
nothing = lambda context: []  # noqa: E731
tuples = lambda context: [("/x", accepts, ("POST",), "user")]  # noqa: E731
