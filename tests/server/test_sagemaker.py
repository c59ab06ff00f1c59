"""SageMaker's two endpoints over the scripted engine: they answer as OpenAI's dialect does."""

from __future__ import annotations

from typing import Any

import pytest

from server.client import http_client
from server.dialects import ANSWER, KEY, dialect_context, masked, script
from server.scripted import ScriptedEngine
from sglcore.errors import RequestError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
COMPLETION: dict[str, Any] = {"prompt": "hello", "max_tokens": 20}


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path, body", [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
async def test_the_answer_is_openais(path: str, body: dict[str, Any], stream: bool) -> None:
    context, routes = dialect_context(ScriptedEngine(script))
    asked = body | {"stream": stream, "n": 2, "logprobs": None}
    async with http_client(context, tuple(routes)) as client:
        answers = [await client.post(at, json=asked) for at in (path, "/invocations")]
    theirs, ours = answers
    assert (ours.status_code, ours.headers["content-type"]) == (200, theirs.headers["content-type"])
    assert masked(ours.content) == masked(theirs.content)
    assert ANSWER.split()[0] in ours.text


@pytest.mark.asyncio
async def test_it_needs_no_other_dialect() -> None:
    context, routes = dialect_context(ScriptedEngine(script), apis="sagemaker")
    async with http_client(context, tuple(routes)) as client:
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 404
        answer = await client.post("/invocations", json=CHAT)
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.asyncio
async def test_refusals() -> None:
    context, routes = dialect_context(ScriptedEngine(script), api_key=KEY)
    key = {"Authorization": f"Bearer {KEY}"}
    async with http_client(context, tuple(routes)) as client:
        assert (await client.post("/invocations", json=CHAT)).status_code == 401
        for body in ({}, {"inputs": "hello"}, CHAT | COMPLETION, CHAT | {"temperature": -1}, CHAT | {"stream": "yes"}):
            answer = await client.post("/invocations", json=body, headers=key)
            assert answer.status_code == 400, body
            assert answer.json()["error"]["type"] == "invalid_request_error"
        assert (await client.post("/invocations", json=CHAT | {"model": "other"}, headers=key)).status_code == 404


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_engine(stream: bool) -> None:
    engine = ScriptedEngine(lambda request: [RequestError("Full.", status=429, retry_after=3)])
    context, routes = dialect_context(engine)
    async with http_client(context, tuple(routes)) as client:
        answer = await client.post("/invocations", json=CHAT | {"stream": stream})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


@pytest.mark.asyncio
async def test_ping() -> None:
    engine = ScriptedEngine(script)
    context, routes = dialect_context(engine, api_key=KEY)
    async with http_client(context, tuple(routes)) as client:
        assert (await client.get("/ping")).status_code == 200
        engine.ready = False  # type: ignore[attr-defined]
        assert (await client.get("/ping")).status_code == 503
        engine.ready, engine.healthy = True, False  # type: ignore[attr-defined]
        assert (await client.get("/ping")).status_code == 503
