"""OpenAI's own client and its Responses against `sglcore serve` with two API workers."""

from __future__ import annotations

import json
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
    THOUGHT,
    WEATHER,
    Server,
    busy,
    expect_abort,
    scripted,
    tokens,
    until,
)

TOOLS: Any = [{"type": "function", "strict": False, **tool["function"]} for tool in (WEATHER, NOW)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def test_a_response(client: openai.OpenAI) -> None:
    made = client.responses.create(model=NAME, input="Hi", instructions="Be kind.", metadata={"a": "b"})
    assert (made.status, made.output_text, made.metadata) == ("completed", HELLO, {"a": "b"})
    assert made.usage is not None and made.usage.output_tokens == tokens(HELLO)
    kept = client.responses.retrieve(made.id)
    assert kept.model_dump() == made.model_dump()
    assert client.responses.input_items.list(made.id).data[0].type == "message"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_tool_loop(client: openai.OpenAI) -> None:
    first = client.responses.create(model=NAME, input="Weather?", tools=TOOLS)
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call", "function_call"]
    calls: Any = first.output[2:]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("get_weather", CITY), ("now", {})]
    results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "12"} for call in calls]
    second = client.responses.create(model=NAME, input=results, previous_response_id=first.id, tools=TOOLS)
    assert second.output_text == FINAL and second.previous_response_id == first.id


def test_the_events_of_a_stream(client: openai.OpenAI) -> None:
    events: Any = list(client.responses.create(model=NAME, input="Weather?", tools=TOOLS, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    once = [kind for at, kind in enumerate(kinds) if not kind.endswith("delta") or kinds[at - 1] != kind]
    part = ["content_part.added", "{}.delta", "{}.done", "content_part.done"]
    item = {
        "reasoning": [word.format("reasoning_text") for word in part],
        "message": [word.format("output_text") for word in part],
        "call": ["function_call_arguments.delta", "function_call_arguments.done"],
    }
    expected = ["created", "in_progress"]
    for name in ("reasoning", "message", "call", "call"):
        expected += ["output_item.added", *item[name], "output_item.done"]
    assert once == [*expected, "completed"]
    assert events[-1].response.output_text == LOOK
    deltas = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert deltas == THOUGHT


def test_the_clients_own_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model=NAME, input="Weather?", tools=TOOLS) as stream:
        for _ in stream:
            pass
        final: Any = stream.get_final_response()
    assert [json.loads(i.arguments) for i in final.output if i.type == "function_call"] == [CITY, {}]


def test_in_the_background(server: Server, client: openai.OpenAI) -> None:
    begun = client.responses.create(model=NAME, input="Count", background=True, max_output_tokens=60_000)
    assert begun.status == "queued"
    until(lambda: busy(server) == 1)
    with expect_abort(server):
        assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.retrieve(begun.id).status == "cancelled"


def test_leaving_a_stream_aborts(server: Server, client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": NAME, "input": "Count", "max_output_tokens": 60_000}
    with expect_abort(server), client.responses.create(**body, stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
        assert busy(server) == 1
    with expect_abort(server), pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.7).responses.create(**body)


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="other", input="Hi")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").responses.create(model=NAME, input="Hi")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.responses.create(model=NAME, input="Hi", previous_response_id="resp_none")
    assert (unknown.value.param, unknown.value.code) == ("previous_response_id", "previous_response_not_found")
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(model=NAME, input="Hi", top_p=2)
    assert bad.value.param == "top_p"
    with pytest.raises(openai.BadRequestError, match="grammars"):
        client.responses.parse(model=NAME, input="Hi", text={"format": {"type": "json_object"}})


@pytest.mark.asyncio
async def test_the_asynchronous_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        async with client.responses.stream(model=NAME, input="Hi") as stream:
            text = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert "".join(text) == final.output_text == HELLO
        following = await client.responses.create(model=NAME, input="And?", previous_response_id=final.id)
        assert following.output_text == HELLO
