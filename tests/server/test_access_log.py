"""What is true of every HTTP request: its id, in and out and in every line, and its line in the access log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from server.client import http_client
from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.cli.logs import set_up_logs
from sglcore.errors import RequestError

TEXT = tiny_text()
KEY = "sk-very-secret-key"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """The log of a server with `set_up_logs(**request.param)`."""
    root, names = logging.getLogger(), ("sglcore", "sglcore.access", "sglcore.requests")
    before = root.handlers[:], root.level, [logging.getLogger(name).level for name in names]
    stream = io.StringIO()
    set_up_logs("info", stream, **getattr(request, "param", {"http": "info"}))
    yield stream
    root.handlers[:], root.level = before[:2]
    for name, level in zip(names, before[2], strict=True):
        logging.getLogger(name).setLevel(level)


def lines(log: io.StringIO, logger: str = "sglcore.access") -> list[str]:
    return [line for line in log.getvalue().splitlines() if f" {logger} " in line]


@pytest.mark.asyncio
@pytest.mark.parametrize("given", ["abc-1", "a" * 128, "x.y:z/+=@_"])
async def test_a_clients_id_comes_back(given: str) -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        for path in ("/health", "/v1/models", "/nowhere"):
            assert (await client.get(path, headers={"x-request-id": given})).headers["x-request-id"] == given


@pytest.mark.asyncio
@pytest.mark.parametrize("given", ["", "a" * 129, "two words", 'a"b', "a\tb", "\u00e9"])
async def test_an_id_that_is_no_plain_word_is_replaced(given: str) -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        got = (await client.get("/health", headers={"x-request-id": given.encode("utf-8")})).headers["x-request-id"]
        other = (await client.get("/health")).headers["x-request-id"]
    assert got != given and len(got) == 32 and other != got


@pytest.mark.asyncio
async def test_a_stream_bears_the_id_too() -> None:
    async with http_client(server_context(ScriptedEngine(says(TEXT, "hello world")), TEXT)) as client:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        answer = await client.post("/v1/chat/completions", json=body, headers={"x-request-id": "s-1"})
    assert answer.headers["x-request-id"] == "s-1" and answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.asyncio
@pytest.mark.usefixtures("log")
async def test_each_request_has_a_line_without_key_query_or_excluded_path(log: io.StringIO) -> None:
    context = server_context(
        *(ScriptedEngine(says(TEXT, "hello")), TEXT), api_key=KEY, uvicorn_access_log_exclude_prefixes=("/health", "")
    )
    async with http_client(context) as client:
        await client.get("/health")
        await client.get(f"/v1/models?api_key={KEY}", headers=AUTHORIZED | {"x-request-id": "m-1"})
        await client.post("/v1/completions", json={"prompt": "a", "rid": "mine"}, headers=AUTHORIZED)
        await client.post("/v1/completions", json={"prompt": "a"}, headers={"Authorization": "Bearer wrong-key"})
    models, completions, refused = lines(log)
    assert "GET /v1/models status=200" in models and "request_id=m-1" in models
    assert "POST /v1/completions status=200" in completions and "rid=mine" in completions
    assert "status=401" in refused
    assert KEY not in log.getvalue() and "wrong-key" not in log.getvalue()


@pytest.mark.asyncio
@pytest.mark.parametrize("log", [{}], indirect=True)
async def test_without_the_flag_there_are_none(log: io.StringIO) -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        await client.get("/v1/models")
    assert lines(log) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("log", [{"form": "json", "http": "info"}], indirect=True)
async def test_every_line_on_behalf_of_a_request_names_it(log: io.StringIO) -> None:
    engine = ScriptedEngine(lambda request: [ValueError("boom")])
    async with http_client(server_context(engine, TEXT)) as client:
        answer = await client.post("/v1/completions", json={"prompt": "a"}, headers={"x-request-id": "bad-1"})
    assert answer.status_code == 500
    failure, access = (json.loads(line) for line in log.getvalue().splitlines())
    assert failure["request_id"] == access["request_id"] == "bad-1"
    assert "boom" in failure["traceback"] and failure["level"] == "ERROR"
    assert access["message"] == "POST /v1/completions" and access["status"] == 500
    logging.getLogger("sglcore.server").warning("later")
    assert "request_id" not in json.loads(log.getvalue().splitlines()[-1])


@pytest.mark.asyncio
async def test_two_requests_at_once_keep_their_ids_apart(log: io.StringIO) -> None:
    engine = ScriptedEngine(lambda request: [RequestError("no", status=400)])
    async with http_client(server_context(engine, TEXT)) as client:
        for name in ("one", "two"):
            await client.post("/v1/completions", json={"prompt": "a"}, headers={"x-request-id": name})
    assert [line.split("request_id=")[1].split()[0] for line in lines(log)] == ["one", "two"]
