"""HttpService and `on_error`: a dialect reads bodies, streams answers and writes every failure in its own shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.client import http_client
from server.scripted import HANG, ScriptedEngine, output, server_context, tiny_text
from server.test_plugin_routes import DIST, dialect
from sglcore.contracts.routes import Problem, RouteEntry
from sglcore.errors import RequestError
from sglcore.isolation import LIMIT
from sglcore.server.body import ClientGone
from sglcore.server.http_service import ByteStream
from sglcore.server.plugin_routes import plugin_routes

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()


def told(problem: Problem) -> Response:
    return JSONResponse({"oh": problem.message, "kind": problem.kind}, problem.status)


def chunk(problem: Problem) -> bytes:
    return f"oh {problem.status} {problem.message}\n".encode()


def client_of(monkeypatch: pytest.MonkeyPatch, make: Any, engine: Any = None, tier: Any = "user", **config: Any) -> Any:
    """A client of a dialect whose POST /web is what `make(context)` returns."""
    context = server_context(engine or ScriptedEngine(), TEXT, **config)
    entry = RouteEntry("/web", make(context), ("POST",), tier, on_error=told)
    plugins = dialect(monkeypatch, [entry])
    context = replace(context, faults=plugins.faults)
    return http_client(context, tuple(plugin_routes(plugins, context)))


def reading(context: Any) -> Any:
    async def endpoint(request: Any) -> Response:
        return JSONResponse(await context.http.read_object(request))

    return endpoint


def streaming(*items: Any, **how: Any) -> Any:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item

    def make(context: Any) -> Any:
        async def endpoint(request: Any) -> Response:
            return context.http.stream(chunks(), media_type="application/x-ndjson", on_error=chunk, **how)

        return endpoint

    return make


async def test_a_body_is_read_within_bounds_and_refused_in_the_dialects_words(monkeypatch: Any) -> None:
    async with client_of(monkeypatch, reading) as client:
        answer = await client.post("/web", json={"a": 1, "b": None}, headers={"x-tenant": "t"})
        assert answer.json() == {"a": 1, "tenant": "t"}
        for body, status in ((b"[]", 400), (b"{", 400), (b" " * (33 << 20), 413)):
            answer = await client.post("/web", content=body)
            assert answer.status_code == status and set(answer.json()) == {"oh", "kind"}


async def test_keys_and_methods_are_refused_in_the_dialects_words(monkeypatch: Any) -> None:
    async with client_of(monkeypatch, reading, api_key="k", admin_api_key="a", tier="admin") as client:
        answer = await client.post("/web", json={})
        assert answer.status_code == 401 and answer.json()["kind"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
        answer = await client.post("/web", json={}, headers={"authorization": "Bearer k"})
        assert answer.status_code == 403 and answer.json()["kind"] == "permission_error"
        answer = await client.get("/web")
        assert answer.status_code == 405 and "oh" in answer.json() and answer.headers["allow"] == "POST"
        assert "error" in (await client.get("/nowhere")).json()


async def test_a_plugins_own_failure_is_told_and_opens_the_breaker(monkeypatch: Any) -> None:
    def make(context: Any) -> Any:
        async def endpoint(request: Any) -> Response:
            raise ValueError("inside words")

        return endpoint

    async with client_of(monkeypatch, make) as client:
        answers = [await client.post("/web", json={}) for _ in range(LIMIT + 1)]
        assert [a.status_code for a in answers] == [500] * LIMIT + [503]
        assert all("oh" in a.json() and DIST in a.json()["oh"] and "inside" not in a.text for a in answers)


async def test_what_is_full_says_when_to_come_again(monkeypatch: Any) -> None:
    engine = ScriptedEngine(lambda r: [RequestError("full", status=429, retry_after=7)])

    def make(context: Any) -> Any:
        async def endpoint(request: Any) -> Response:
            turn = await context.chat.begin(await context.http.read_object(request))
            return JSONResponse([len(e) async for e in turn.events()])

        return endpoint

    async with client_of(monkeypatch, make, engine) as client:
        answer = await client.post("/web", json={"messages": [{"role": "user", "content": "x"}]})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7") and answer.json()["oh"] == "full"


async def test_a_stream_and_its_end(monkeypatch: Any) -> None:
    async with client_of(monkeypatch, streaming(b"1\n", b"2\n", end=b"end\n")) as client:
        answer = await client.post("/web")
        assert answer.content == b"1\n2\nend\n" and answer.headers["content-type"] == "application/x-ndjson"
    async with client_of(monkeypatch, streaming(end=b"end\n")) as client:
        assert (await client.post("/web")).content == b"end\n"


async def test_a_stream_that_fails_before_it_began_has_a_status(monkeypatch: Any) -> None:
    async with client_of(monkeypatch, streaming(RequestError("no", status=422))) as client:
        answer = await client.post("/web")
        assert answer.status_code == 422 and answer.json() == {"oh": "no", "kind": "invalid_request_error"}
    other = streaming(RequestError("no", status=422), on_early_error=lambda p: JSONResponse(p.message, p.status))
    async with client_of(monkeypatch, other) as client:
        assert (await client.post("/web")).json() == "no"


async def test_a_stream_that_fails_later_says_so_and_is_counted(monkeypatch: Any) -> None:
    async with client_of(monkeypatch, streaming(b"1\n", RequestError("no more", status=503), end=b"end\n")) as client:
        assert (await client.post("/web")).content == b"1\noh 503 no more\nend\n"
        assert (await client.get("/server_info")).json()["plugin_errors"] == []
    async with client_of(monkeypatch, streaming(b"1\n", ValueError("inside words"))) as client:
        body = (await client.post("/web")).text
        assert body.startswith("1\noh 500 ") and DIST in body and "inside" not in body
        (row,) = (await client.get("/server_info")).json()["plugin_errors"]
        assert row["hook"] == "POST /web" and row["errors"] == 1


async def test_other_streams_tell_their_failure_in_the_dialects_words(monkeypatch: Any) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        raise ValueError("inside words")

    def make(context: Any) -> Any:
        async def endpoint(request: Any) -> Response:
            return StreamingResponse(chunks(), media_type="text/event-stream")

        return endpoint

    async with client_of(monkeypatch, make) as client:
        last = (await client.post("/web")).text.split("\n\n")[-2]
        assert DIST in json.loads(last.removeprefix("data: "))["oh"]


async def test_an_on_error_that_fails_costs_the_shape_alone(monkeypatch: Any) -> None:
    def broken(problem: Problem) -> Response:
        raise ValueError("inside words")

    async def endpoint(request: Any) -> Response:
        raise RequestError("no")

    for on_error in (broken, lambda problem: {"no": "Response"}):
        entry = RouteEntry("/web", endpoint, ("POST",), "user", on_error=on_error)
        async with http_client(server_context(ScriptedEngine(), TEXT), (entry,)) as client:
            answer = await client.post("/web")
            assert answer.status_code == 400 and answer.json()["error"]["message"] == "no"


def scope() -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/web", "headers": []}


async def test_a_reader_that_takes_nothing_is_cut_off_and_its_work_closed() -> None:
    closed = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"more"
        finally:
            closed.set()

    async def stuck(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def stays() -> Any:
        await asyncio.Event().wait()

    stream = ByteStream(chunks(), on_error=chunk, patience=0.05)
    await asyncio.wait_for(stream(scope(), stays, stuck), 10)
    assert closed.is_set()


async def test_a_client_that_leaves_ends_the_work(monkeypatch: Any) -> None:
    engine = ScriptedEngine(lambda r: [[output(r, TEXT.encode("the"))], HANG])
    context = server_context(engine, TEXT)
    turn = await context.chat.begin({"messages": [{"role": "user", "content": "x"}]})

    async def whole() -> list[Any]:
        return [events async for events in turn.events()]

    class Leaving:
        async def receive(self) -> Any:
            await engine.hanging.wait()
            return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        await asyncio.wait_for(context.http.while_connected(Leaving(), whole()), 10)
    assert engine.left == [turn.rid]
