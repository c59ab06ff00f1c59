"""The official client against a real uvicorn server over the scripted engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import openai
import pytest

from server.scripted import HANG, ScriptedEngine, says, server_context, tiny_text
from sglcore.errors import ConfigError
from sglcore.request import GenerateRequest, RequestOutput
from sglcore.server import build_app, build_server, listen
from sglcore.server_config import ServerConfig

TEXT = tiny_text()
ANSWER = "été à Zürich 🎉, how are you?"
HELLO: Any = [{"role": "user", "content": "hello"}]


class NoticingEngine(ScriptedEngine):
    """Tells another thread when a request was left."""

    def __init__(self, noticed: threading.Event) -> None:
        super().__init__(lambda r: [HANG] if r.rid == "hang" else says(TEXT, ANSWER)(r))
        self.noticed = noticed

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[RequestOutput], None]:
        try:
            async with aclosing(super().generate(request)) as steps:
                async for step in steps:
                    yield step
        finally:
            self.noticed.set()


class Running:
    """A server in a thread."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self.engine = NoticingEngine(self.left)
        config = ServerConfig(model_path="org/tiny-model", port=0)
        self.sock = listen(config)
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        app = build_app(server_context(self.engine, TEXT, api_key="k"))
        self.server = build_server(app, config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.sock]})
        self.thread.start()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.server.should_exit = True
    running.thread.join(20)
    assert not running.thread.is_alive(), "the server did not stop"


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="k", max_retries=0)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "sglcore"


def test_chat(client: openai.OpenAI) -> None:
    answer: Any = client.chat.completions.create(model="tiny", messages=HELLO, logprobs=True, top_logprobs=2, n=2)
    assert [c.message.content for c in answer.choices] == [ANSWER, ANSWER]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs.content[0].top_logprobs[0].logprob == -0.5
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks: Any = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(TEXT.encode(ANSWER))


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=99, stop=", how")
    assert [c.text for c in answer.choices] == [ANSWER.split(", how")[0]] * 2
    stream = client.completions.create(model="tiny", prompt="a", max_tokens=99, stream=True)
    assert "".join(c.choices[0].text for c in stream) == ANSWER


def test_errors_have_the_clients_types(running: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0).models.list()


@pytest.mark.asyncio
async def test_the_asynchronous_client(running: Running) -> None:
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="k", max_retries=0) as client:
        answers = await asyncio.gather(
            *[client.chat.completions.create(model="tiny", messages=HELLO) for _ in range(16)]
        )
        assert {a.choices[0].message.content for a in answers} == {ANSWER}
        assert len({a.id for a in answers}) == 16
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_a_dropped_connection_aborts(running: Running, stream: bool) -> None:
    engine = running.engine
    running.left.clear()
    before = len(engine.left)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{running.url}/generate",
            json={"text": "a", "rid": "hang", "stream": stream},
            headers={"Authorization": "Bearer k"},
            timeout=0.5,
        )
    assert running.left.wait(5), "the engine was not told"
    assert engine.left[before:] == ["hang"]


def test_a_taken_port_is_a_config_error(running: Running) -> None:
    port = running.sock.getsockname()[1]
    with pytest.raises(ConfigError, match=f"{port}.*--port"):
        listen(ServerConfig(model_path="x", port=port))


def test_server_header_is_not_sent(running: Running) -> None:
    answer = httpx.get(f"{running.url}/health")
    assert answer.status_code == 200
    assert "server" not in answer.headers
