"""OpenAI's own client against `sglcore serve`: chat, completions, tools, errors, timeouts, aborts."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from clients.served import (
    CITY,
    FINAL,
    HELLO,
    KEY,
    LOOK,
    NAME,
    NOW,
    STORY,
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
LONG: dict[str, Any] = {"model": NAME, "messages": user("Count"), "max_tokens": 60_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def several(server: Server) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60)


def ask(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": user(text), **fields}


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object) == (NAME, "model")
    assert client.models.retrieve(NAME).id == NAME
    assert model.model_extra is not None and model.model_extra["max_model_len"] == 65535


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ask(seed=7, user="u", metadata={"a": "b"}, store=False))
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", HELLO, "stop")
    assert answer.usage is not None and answer.usage.completion_tokens == tokens(HELLO)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert (answer.object, answer.model) == ("chat.completion", NAME)


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ask(), stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == HELLO
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == tokens(HELLO)
    assert len({c.id for c in chunks}) == 1


def test_several_answers_with_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ask(n=3, logprobs=True, top_logprobs=2, max_tokens=5))
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (index, HELLO[:5], "length") for index in range(3)
    ]
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        assert "".join(entry.token for entry in choice.logprobs.content) == HELLO[:5]
        assert all(entry.logprob > -1e-3 and len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)


def test_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ask(stop=["there"]))
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (HELLO.split("there")[0], "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_completions(client: openai.OpenAI, stream: bool) -> None:
    made: Any = client.completions.create(model=NAME, prompt="Once upon", max_tokens=99, echo=True, stream=stream)
    text = "".join(chunk.choices[0].text for chunk in made) if stream else made.choices[0].text
    assert text == f"Once upon{STORY}"
    if not stream:
        many = client.completions.create(model=NAME, prompt=["Once upon", "It was Once upon"], max_tokens=7, n=2)
        assert [(c.index, c.text) for c in many.choices] == [(index, STORY[:7]) for index in range(4)]


def test_a_tool_loop(client: openai.OpenAI) -> None:
    """The model asks for two tools, the program answers, the model ends."""
    messages: list[Any] = user("Weather?")
    answers = {"get_weather": "12 degrees", "now": "noon"}
    rounds = 0
    while True:
        answer = client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS)
        choice = answer.choices[0]
        if choice.finish_reason != "tool_calls":
            break
        rounds += 1
        messages.append(choice.message)
        assert choice.message.tool_calls is not None
        for call in choice.message.tool_calls:
            content = answers[call.function.name]  # type: ignore[union-attr]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
    assert rounds == 1 and choice.message.content == FINAL
    asked = messages[1]
    assert asked.content == LOOK and asked.model_extra["reasoning_content"] == THOUGHT
    assert [(c.function.name, json.loads(c.function.arguments)) for c in asked.tool_calls] == [
        ("get_weather", CITY),
        ("now", {}),
    ]
    assert len({call.id for call in asked.tool_calls}) == 2


def test_one_call_where_parallel_ones_are_not_wanted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ask("Weather?", tools=TOOLS, parallel_tool_calls=False))
    calls: Any = answer.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather"]


def test_tools_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**ask("Weather?", tools=TOOLS)) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_completion()
    pieces = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert len(pieces) > 5
    message = final.choices[0].message
    assert message.content == LOOK and final.choices[0].finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in message.tool_calls or ()] == [CITY, {}]
    thoughts = [c.chunk.choices[0].delta.model_extra for c in events if c.type == "chunk" and c.chunk.choices]
    assert "".join((extra or {}).get("reasoning_content") or "" for extra in thoughts) == THOUGHT


def test_errors_have_the_clients_types(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as denied:
        client.with_options(api_key="wrong").chat.completions.create(**ask())
    assert denied.value.status_code == 401 and KEY not in str(denied.value)
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**ask() | {"model": "other"})
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(**ask(temperature=-1, stream=stream))
        assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(**ask("x" * 70_000))
    with pytest.raises(openai.BadRequestError, match="generates text"):
        client.embeddings.create(model=NAME, input="x")
    with pytest.raises(openai.BadRequestError, match="grammars"):
        client.chat.completions.create(**ask(tools=TOOLS, tool_choice="required"))
    with pytest.raises(openai.APIConnectionError):
        client.with_options(base_url="http://127.0.0.1:9/v1").models.list()


def test_raw_responses(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**ask())
    assert raw.http_response.status_code == 200 and raw.headers["content-type"] == "application/json"
    assert raw.request_id
    assert raw.parse().choices[0].message.content == HELLO
    with client.chat.completions.with_streaming_response.create(**ask(stream=True)) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)


@pytest.mark.parametrize("stream", [False, True])
def test_a_timeout_aborts(server: Server, client: openai.OpenAI, stream: bool) -> None:
    """A read timeout; in a stream, of a program that waits for an answer as a whole."""
    hasty = client.with_options(timeout=0.7)
    with expect_abort(server):
        if stream:
            with pytest.raises(TimeoutError):
                asyncio.run(_too_long(server))
        else:
            with pytest.raises(openai.APITimeoutError):
                hasty.chat.completions.create(**LONG)


async def _too_long(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        async with asyncio.timeout(1.0):
            async for _ in await client.chat.completions.create(**LONG, stream=True):
                pass


def test_leaving_a_stream_aborts(server: Server, client: openai.OpenAI) -> None:
    with expect_abort(server), client.chat.completions.create(**LONG, stream=True) as stream:
        for seen, _ in enumerate(stream):
            if seen == 20:
                break
        assert busy(server) == 1


@pytest.mark.asyncio
async def test_the_asynchronous_client(server: Server, several: openai.AsyncOpenAI) -> None:
    async with several as client:
        answers = await asyncio.gather(*[client.chat.completions.create(**ask()) for _ in range(16)])
        assert {answer.choices[0].message.content for answer in answers} == {HELLO}
        assert len({answer.id for answer in answers}) == 16
        stream = await client.chat.completions.create(**ask("Weather?", tools=TOOLS, stream=True))
        reasons = [c.choices[0].finish_reason async for c in stream if c.choices]
        assert reasons[-1] == "tool_calls"
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**ask(top_p=3))
        task = asyncio.create_task(client.chat.completions.create(**LONG))
        await asyncio.to_thread(until, lambda: busy(server) == 1)
        with expect_abort(server):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


def test_a_program_that_is_pointed_here_by_its_environment(server: Server) -> None:
    program = (
        "import openai\n"
        "client = openai.OpenAI()\n"
        "model = client.models.list().data[0].id\n"
        "answer = client.chat.completions.create(model=model, messages=[{'role': 'user', 'content': 'Hi'}])\n"
        "print(ascii(answer.choices[0].message.content))\n"
    )
    environment = os.environ | {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (ascii(HELLO), "")
