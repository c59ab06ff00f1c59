"""Anthropic's own client against a live server over the scripted engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from server.dialects import ANSWER, FINAL, KEY, THOUGHT, Live, live
from server.parsing import TEXT, WEATHER

TOOLS: Any = [
    {
        "name": "get_weather",
        "description": "Weather of a city",
        "input_schema": WEATHER["function"]["parameters"],
    },
    {"name": "now", "input_schema": {"type": "object"}},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    yield from live(api_key=KEY)


@pytest.fixture
def client(server: Live) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
        yield client


def ask(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "max_tokens": 300, "messages": [{"role": "user", "content": text}], **fields}


def plain(content: Any) -> list[Any]:
    """Blocks as data; the client's stream adds a member of its own."""
    return [block.model_dump(exclude_none=True, exclude={"parsed_output"}) for block in content]


def test_a_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ask(system="Be kind.", metadata={"user_id": "u"}, service_tier="auto"))
    assert (message.type, message.role, message.model) == ("message", "assistant", "tiny")
    assert message.id.startswith("msg_")
    assert [(block.type, block.text) for block in message.content] == [("text", ANSWER)]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.cache_read_input_tokens == 2
    assert message.usage.output_tokens == len(TEXT.encode(ANSWER)) + 1
    assert message._request_id is not None and message._request_id.startswith("req_")


def test_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ask()) as stream:
        assert "".join(stream.text_stream) == ANSWER
        message = stream.get_final_message()
    whole = client.messages.create(**ask())
    assert plain(message.content) == plain(whole.content)
    assert message.usage.model_dump(exclude_none=True) == whole.usage.model_dump(exclude_none=True)
    assert message.stop_reason == "end_turn"


def test_the_order_of_events(client: anthropic.Anthropic) -> None:
    events: Any = list(client.messages.create(**ask("Weather?", tools=TOOLS, stream=True)))
    kinds = [event.type for event in events]
    once = [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    # the second tool's arguments come in one piece; the client leaves pings out
    assert once == ["message_start", *block * 3, "message_delta", "message_stop"]
    assert [e.index for e in events if e.type == "content_block_start"] == [0, 1, 2]


def test_a_whole_round_of_tools(client: anthropic.Anthropic) -> None:
    first = client.messages.create(**ask("Weather?", tools=TOOLS, tool_choice={"type": "auto"}))
    assert first.stop_reason == "tool_use"
    said, weather, now = first.content
    assert (said.type, said.text) == ("text", "Let me look.")
    assert (weather.type, weather.name, weather.input) == ("tool_use", "get_weather", {"city": "Zürich 🎉"})
    assert (now.type, now.name, now.input) == ("tool_use", "now", {})
    assert weather.id.startswith("toolu_") and weather.id != now.id
    results = [
        {"type": "tool_result", "tool_use_id": weather.id, "content": [{"type": "text", "text": "12 degrees"}]},
        {"type": "tool_result", "tool_use_id": now.id, "content": "noon", "is_error": True},
    ]
    messages = [*ask("Weather?")["messages"], first.to_param(), {"role": "user", "content": results}]
    second = client.messages.create(**ask(messages=messages, tools=TOOLS))
    assert [block.text for block in second.content] == [FINAL]


def test_one_tool_at_a_time(client: anthropic.Anthropic) -> None:
    choice: Any = {"type": "auto", "disable_parallel_tool_use": True}
    message = client.messages.create(**ask("Weather?", tools=TOOLS, tool_choice=choice))
    assert [block.name for block in message.content if block.type == "tool_use"] == ["get_weather"]


def test_tools_in_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ask("Weather?", tools=TOOLS)) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    assert len(pieces) > 5
    assert [b.input for b in message.content if b.type == "tool_use"] == [{"city": "Zürich 🎉"}, {}]
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}])
def test_thoughts_are_shown_to_those_who_ask(client: anthropic.Anthropic, thinking: Any) -> None:
    body = ask("Weather?", tools=TOOLS, thinking=thinking)
    message = client.messages.create(**body)
    assert (message.content[0].type, message.content[0].thinking) == ("thinking", THOUGHT)
    assert message.content[0].signature
    with client.messages.stream(**body) as stream:
        thought = "".join(event.thinking for event in stream if event.type == "thinking")
        streamed = stream.get_final_message()
    assert thought == THOUGHT
    assert plain(streamed.content[:2]) == plain(message.content[:2])
    back = [*body["messages"], message.to_param(), {"role": "user", "content": "Go on."}]
    client.messages.create(**ask(messages=back))


@pytest.mark.parametrize("stream", [False, True])
def test_others_see_none(client: anthropic.Anthropic, stream: bool) -> None:
    answer: Any = client.messages.create(**ask("Weather?", tools=TOOLS, stream=stream))
    kinds = [e.content_block.type for e in answer if e.type == "content_block_start"] if stream else None
    assert (kinds or [block.type for block in answer.content]) == ["text", "tool_use", "tool_use"]


def test_stop_reasons(client: anthropic.Anthropic) -> None:
    stopped = client.messages.create(**ask(stop_sequences=[", how"]))
    assert stopped.content[0].text == ANSWER.split(", how")[0]
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ", how")
    short = client.messages.create(**ask(max_tokens=3))
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)


def test_more_tokens_than_the_context_holds_are_as_many_as_fit(client: anthropic.Anthropic, server: Live) -> None:
    for limit in (4095, 4096, 64_000):
        assert client.messages.create(**ask(max_tokens=limit), timeout=9).content[0].text == ANSWER
        asked = server.engine.requests[-1]
        assert asked.sampling.max_new_tokens == 4096 - len(asked.token_ids())


def test_sampling(client: anthropic.Anthropic, server: Live) -> None:
    client.messages.create(**ask(extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 7}))  # older clients' fields
    sampling = server.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)


def test_an_answer_that_was_begun_goes_on(client: anthropic.Anthropic, server: Live) -> None:
    client.messages.create(**ask(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So"}]))
    assert TEXT.decode(server.engine.requests[-1].token_ids().tolist()).endswith("assistant\nSo")


def test_counting_tokens(client: anthropic.Anthropic) -> None:
    body = ask("Weather?", tools=TOOLS, system=[{"type": "text", "text": "Be kind."}])
    usage = client.messages.create(**body).usage
    body.pop("max_tokens")
    counted = client.messages.count_tokens(**body)
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def refused(kind: type[anthropic.APIStatusError], client: anthropic.Anthropic, **fields: Any) -> dict[str, Any]:
    with pytest.raises(kind) as error:
        client.messages.create(**ask(**fields))
    body: Any = error.value.body
    assert body["type"] == "error" and body["request_id"].startswith("req_")
    return body["error"]


def test_errors_have_the_clients_types(client: anthropic.Anthropic) -> None:
    bad = refused(anthropic.BadRequestError, client, stop_sequences=[""])
    assert bad["type"] == "invalid_request_error" and bad["message"].startswith("`stop_sequences[0]`")
    missing = refused(anthropic.NotFoundError, client, model="other")
    assert missing["type"] == "not_found_error"
    for choice in ({"type": "any"}, {"type": "tool", "name": "now"}):
        message = refused(anthropic.BadRequestError, client, tools=TOOLS, tool_choice=choice)["message"]
        assert "`tool_choice`" in message and "`grammars`" in message
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
    content = [{"type": "text", "text": "What is it?"}, picture]
    message = refused(
        anthropic.BadRequestError, client, system="Be kind.", messages=[{"role": "user", "content": content}]
    )["message"]
    assert "`messages[0].content[1]`" in message and "vision" in message


def test_keys(server: Live) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as stranger:
        assert refused(anthropic.AuthenticationError, stranger)["type"] == "authentication_error"
    with anthropic.Anthropic(base_url=server.url, auth_token=KEY, max_retries=0) as bearer:
        assert bearer.messages.create(**ask()).content[0].text == ANSWER
    for header, status in (("x-api-key", 401), ("authorization", 200)):  # other dialects know one header only
        key = KEY if header == "x-api-key" else f"Bearer {KEY}"
        assert httpx.get(f"{server.url}/v1/models", headers={header: key}).status_code == status
    wrong_method = httpx.get(f"{server.url}/v1/messages")
    assert (wrong_method.status_code, wrong_method.json()["type"]) == (405, "error")


def test_a_failure_in_the_middle_of_a_stream(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as error:
        list(client.messages.create(**ask("Break", stream=True)))
    body: Any = error.value.body
    assert body["error"] == {"type": "overloaded_error", "message": "Out of luck."}


@pytest.mark.parametrize("stream", [False, True])
def test_an_aborted_turn_is_an_error(client: anthropic.Anthropic, stream: bool) -> None:
    with pytest.raises(anthropic.APIStatusError, match="Told to stop"):
        list(client.messages.create(**ask("Abort", stream=stream)))


def test_a_timeout_aborts(client: anthropic.Anthropic, server: Live) -> None:
    with server.expect_left(), pytest.raises(anthropic.APITimeoutError):
        client.messages.create(**ask("Hang"), timeout=0.5)


def test_leaving_a_stream_aborts(client: anthropic.Anthropic, server: Live) -> None:
    with server.expect_left(), client.messages.stream(**ask("Hang")) as stream:
        assert next(iter(stream.text_stream)) == "ok"


@pytest.mark.asyncio
async def test_the_asynchronous_client(server: Live) -> None:
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
        answers = await asyncio.gather(*[client.messages.create(**ask()) for _ in range(16)])
        assert {answer.content[0].text for answer in answers} == {ANSWER}
        assert len({answer.id for answer in answers}) == 16
        async with client.messages.stream(**ask("Weather?", tools=TOOLS)) as stream:
            message = await stream.get_final_message()
        assert json.dumps([b.input for b in message.content if b.type == "tool_use"][1]) == "{}"
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(**ask(max_tokens=0))
