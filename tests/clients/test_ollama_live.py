"""Ollama's own client against `sglcore serve`, in the steps of its command line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from clients.served import (
    CITY,
    FINAL,
    HEADERS,
    HELLO,
    LOOK,
    NAME,
    NOW,
    THOUGHT,
    WEATHER,
    Server,
    busy,
    expect_abort,
    scripted,
    tokens,
    until,
    user,
)

TOOLS: Any = [WEATHER, NOW]
LONG: dict[str, Any] = {"model": NAME, "messages": user("Count"), "options": {"num_predict": 60_000}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> ollama.Client:
    return ollama.Client(server.url, headers=HEADERS, timeout=60)


def test_list(client: ollama.Client) -> None:
    """`ollama list` and `ollama ps`."""
    (listed,) = client.list().models
    assert listed.model == f"{NAME}:latest" and listed.digest and listed.modified_at and listed.details
    (loaded,) = client.ps().models
    assert loaded.model == f"{NAME}:latest" and loaded.expires_at


def test_run(server: Server, client: ollama.Client) -> None:
    """`ollama run`: a look at the server, at the model, a load, then turns with the whole conversation."""
    assert httpx.head(f"{server.url}/api/version", headers=HEADERS).status_code == 200
    assert httpx.get(f"{server.url}/api/version", headers=HEADERS).json()["version"]
    shown = client.show(NAME)
    assert shown.capabilities is not None and {"completion", "tools", "thinking"} <= set(shown.capabilities)
    assert client.generate(NAME, "", keep_alive="5m").done_reason == "load"
    messages = user("Hi")
    for _ in range(2):
        parts = list(client.chat(NAME, messages, stream=True, keep_alive="5m"))
        said = "".join(part.message.content or "" for part in parts)
        assert said == HELLO and parts[-1].done and parts[-1].eval_count == tokens(HELLO)
        messages += [{"role": "assistant", "content": said}, *user("And?")]


@pytest.mark.parametrize("stream", [False, True])
def test_generate(client: ollama.Client, stream: bool) -> None:
    made: Any = client.generate(NAME, "Hi", stream=stream, options={"temperature": 0, "num_predict": 6})
    parts = list(made) if stream else [made]
    assert "".join(part.response for part in parts) == HELLO[:6]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("length", 6)
    raw = client.generate(NAME, "Once upon", raw=True)
    assert raw.response.startswith(" a time")


def test_a_tool_loop(client: ollama.Client) -> None:
    messages: list[Any] = user("Weather?")
    rounds = 0
    while True:
        answer = client.chat(NAME, messages, tools=TOOLS, think=True)
        if not answer.message.tool_calls:
            break
        rounds += 1
        assert (answer.message.content, answer.message.thinking) == (LOOK, THOUGHT)
        calls = [(call.function.name, call.function.arguments) for call in answer.message.tool_calls]
        assert calls == [("get_weather", CITY), ("now", {})]
        results = [{"role": "tool", "content": "12", "tool_name": name} for name, _ in calls]
        messages += [answer.message, *results]
    assert rounds == 1 and answer.message.content == FINAL


def test_errors_have_the_clients_type(server: Server, client: ollama.Client) -> None:
    for call, status in (
        (lambda: client.chat("other", user("Hi")), 404),
        (lambda: client.show("other"), 404),
        (lambda: client.chat(NAME, user("Hi"), options={"top_p": 3}), 400),
        (lambda: client.chat(NAME, user("Hi"), format="json"), 400),
        (lambda: client.embed(NAME, "Hi"), 400),
        (lambda: ollama.Client(server.url).list(), 401),
        (lambda: list(client.chat("other", user("Hi"), stream=True)), 404),
    ):
        with pytest.raises(ollama.ResponseError) as error:
            call()
        assert error.value.status_code == status and error.value.error


def test_timeouts_and_streams_that_are_left_abort(server: Server, client: ollama.Client) -> None:
    with expect_abort(server), pytest.raises(httpx.ReadTimeout):
        ollama.Client(server.url, headers=HEADERS, timeout=0.7).chat(**LONG)
    with expect_abort(server):
        stream: Any = client.chat(**LONG, stream=True)
        next(stream)
        assert busy(server) == 1
        stream.close()


@pytest.mark.asyncio
async def test_the_asynchronous_client(server: Server) -> None:
    client = ollama.AsyncClient(server.url, headers=HEADERS, timeout=60)
    answers = await asyncio.gather(*[client.chat(NAME, user("Hi")) for _ in range(8)])
    assert {answer.message.content for answer in answers} == {HELLO}
    parts = [part async for part in await client.chat(NAME, user("Weather?"), tools=TOOLS, stream=True)]
    calls = [call.function.name for part in parts for call in part.message.tool_calls or ()]
    assert calls == ["get_weather", "now"]
    task = asyncio.create_task(client.chat(**LONG))
    await asyncio.to_thread(until, lambda: busy(server) == 1)
    with expect_abort(server):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
