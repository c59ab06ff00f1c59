"""Anthropic's own client against `sglcore serve`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from clients.served import (
    CITY,
    FINAL,
    HELLO,
    KEY,
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

TOOLS: Any = [
    {
        "name": tool["function"]["name"],
        "description": tool["function"]["description"],
        "input_schema": tool["function"]["parameters"],
    }
    for tool in (WEATHER, NOW)
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def ask(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": NAME, "max_tokens": 2000, "messages": user(text), **fields}


def test_a_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ask(system="Be kind."))
    assert [block.text for block in message.content if block.type == "text"] == [HELLO]
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", tokens(HELLO))
    counted = client.messages.count_tokens(model=NAME, messages=user("Hi"), system="Be kind.")
    usage = client.messages.create(**ask(system="Be kind.")).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert [model.id for model in client.models.list().data] == [NAME]


def test_the_clients_own_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ask()) as stream:
        assert "".join(stream.text_stream) == HELLO
        assert stream.get_final_message().stop_reason == "end_turn"


def test_a_tool_loop_with_thoughts(client: anthropic.Anthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    messages = user("Weather?")
    rounds = 0
    while True:
        with client.messages.stream(**ask(messages=messages, tools=TOOLS, thinking=thinking)) as stream:
            kinds = {event.type for event in stream}
            message = stream.get_final_message()
        if message.stop_reason != "tool_use":
            break
        rounds += 1
        assert {"thinking", "text", "input_json", "content_block_stop", "message_stop"} <= kinds
        thought, said, weather, now = message.content
        assert (thought.type, thought.thinking) == ("thinking", THOUGHT)
        assert (said.type, said.text) == ("text", LOOK)
        assert (weather.type, weather.input, now.type, now.input) == ("tool_use", CITY, "tool_use", {})
        results = [{"type": "tool_result", "tool_use_id": use.id, "content": "12"} for use in (weather, now)]
        messages += [message.to_param(), {"role": "user", "content": results}]
    assert rounds == 1 and [b.text for b in message.content if b.type == "text"] == [FINAL]


def test_stops(client: anthropic.Anthropic) -> None:
    stopped = client.messages.create(**ask(stop_sequences=["there"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "there")
    assert client.messages.create(**ask(max_tokens=3)).stop_reason == "max_tokens"


def test_errors_have_the_clients_types(client: anthropic.Anthropic) -> None:
    for kind, fields in (
        (anthropic.BadRequestError, {"max_tokens": 0}),
        (anthropic.NotFoundError, {"model": "other"}),
        (anthropic.BadRequestError, {"tools": TOOLS, "tool_choice": {"type": "any"}}),
    ):
        for stream in (False, True):
            with pytest.raises(kind) as error:
                client.messages.create(**ask(**fields, stream=stream))
            body: Any = error.value.body
            assert body["type"] == "error" and body["error"]["message"]
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(**ask())


def test_timeouts_and_streams_that_are_left_abort(server: Server, client: anthropic.Anthropic) -> None:
    long = ask("Count", max_tokens=60_000)
    with expect_abort(server), pytest.raises(anthropic.APITimeoutError):
        client.with_options(timeout=0.7).messages.create(**long)
    with expect_abort(server), client.messages.stream(**long) as stream:
        assert next(iter(stream.text_stream))
        assert busy(server) == 1


@pytest.mark.asyncio
async def test_the_asynchronous_client(server: Server) -> None:
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key=KEY, max_retries=0, timeout=60) as client:
        answers: Any = await asyncio.gather(*[client.messages.create(**ask()) for _ in range(8)])
        assert {answer.content[0].text for answer in answers} == {HELLO}
        async with client.messages.stream(**ask("Weather?", tools=TOOLS)) as stream:
            final = await stream.get_final_message()
        assert [block.input for block in final.content if block.type == "tool_use"] == [CITY, {}]
        task = asyncio.create_task(client.messages.create(**ask("Count", max_tokens=60_000), timeout=60))
        await asyncio.to_thread(until, lambda: busy(server) == 1)
        with expect_abort(server):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


def test_a_program_that_is_pointed_here_by_its_environment(server: Server) -> None:
    program = (
        "import anthropic\n"
        "messages = [{'role': 'user', 'content': 'Hi'}]\n"
        f"answer = anthropic.Anthropic().messages.create(model='{NAME}', max_tokens=99, messages=messages)\n"
        "print(ascii(answer.content[0].text))\n"
    )
    environment = os.environ | {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (ascii(HELLO), "")
