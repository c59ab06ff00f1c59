"""LangChain's client of OpenAI against `sglcore serve`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from clients.served import CITY, FINAL, HELLO, KEY, LOOK, NAME, STORY, Server, expect_abort, scripted, tokens


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"12 degrees in {city}"


@tool
def now() -> str:
    """The time."""
    return "noon"


class Weather(BaseModel):
    """What to answer with."""

    city: str
    degrees: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted(tmp_path_factory.mktemp("model")) as server:
        yield server


def client_of(server: Server, **settings: Any) -> ChatOpenAI:
    settings = {"max_retries": 0, "timeout": 60, "api_key": KEY, "model": NAME} | settings
    return ChatOpenAI(base_url=f"{server.url}/v1", **settings)


@pytest.fixture
def chat(server: Server) -> ChatOpenAI:
    return client_of(server)


def test_invoke(chat: ChatOpenAI) -> None:
    answer = chat.invoke([SystemMessage("Be kind."), HumanMessage("Hi")])
    assert answer.content == HELLO
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == tokens(HELLO)
    assert answer.response_metadata["finish_reason"] == "stop"


def test_stream(server: Server) -> None:
    chunks = list(client_of(server, stream_usage=True).stream("Hi"))
    assert len(chunks) > 5
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == HELLO
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] == tokens(HELLO)


def test_batch(chat: ChatOpenAI) -> None:
    assert [answer.content for answer in chat.batch(["Hi", "Only text", "Hi"])] == [HELLO] * 3


@pytest.mark.asyncio
async def test_asynchronously(chat: ChatOpenAI) -> None:
    assert (await chat.ainvoke("Hi")).content == HELLO
    assert "".join([str(chunk.content) async for chunk in chat.astream("Hi")]) == HELLO


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop(chat: ChatOpenAI, stream: bool) -> None:
    tools = {"get_weather": get_weather, "now": now}
    bound = chat.bind_tools(list(tools.values()))
    messages: list[Any] = [HumanMessage("Weather?")]
    rounds = 0
    while True:
        if stream:
            chunks = list(bound.stream(messages))
            answer: Any = sum(chunks[1:], start=chunks[0])
        else:
            answer = bound.invoke(messages)
        if not answer.tool_calls:
            break
        rounds += 1
        assert answer.content == LOOK
        assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("get_weather", CITY), ("now", {})]
        messages.append(AIMessage(answer.content, tool_calls=answer.tool_calls))
        messages += [
            ToolMessage(str(tools[call["name"]].invoke(call["args"])), tool_call_id=call["id"])
            for call in answer.tool_calls
        ]
    assert rounds == 1 and answer.content == FINAL


def test_responses(server: Server) -> None:
    answer = client_of(server, use_responses_api=True).invoke("Hi")
    assert answer.text == HELLO
    bound = client_of(server, use_responses_api=True).bind_tools([get_weather, now])
    assert [call["args"] for call in bound.invoke("Weather?").tool_calls] == [CITY, {}]


def test_completions(server: Server) -> None:
    model = OpenAI(base_url=f"{server.url}/v1", api_key=KEY, model=NAME, max_retries=0)  # type: ignore[arg-type, call-arg]
    assert model.invoke("Once upon") == STORY


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_structured_output_names_what_is_missing(chat: ChatOpenAI, method: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="grammars"):
        chat.with_structured_output(Weather, method=method).invoke("Weather?")


def test_embeddings_say_what_the_model_is(server: Server) -> None:
    settings: Any = {"base_url": f"{server.url}/v1", "api_key": KEY, "model": NAME, "max_retries": 0}
    with pytest.raises(openai.BadRequestError, match="generates text"):
        OpenAIEmbeddings(**settings, check_embedding_ctx_length=False).embed_query("Hi")


def test_errors(server: Server) -> None:
    with pytest.raises(openai.AuthenticationError):
        client_of(server, api_key="wrong").invoke("Hi")
    with pytest.raises(openai.NotFoundError):
        client_of(server, model="other").invoke("Hi")
    with pytest.raises(openai.BadRequestError):
        client_of(server, temperature=-1).invoke("Hi")


def test_timeouts_and_streams_that_are_left_abort(server: Server) -> None:
    with expect_abort(server), pytest.raises(openai.APITimeoutError):
        client_of(server, timeout=0.7, max_tokens=60_000).invoke("Count")
    with expect_abort(server):
        stream = client_of(server, max_tokens=60_000).stream("Count")
        for seen, _ in enumerate(stream):
            if seen == 20:
                break
        stream.close()  # type: ignore[attr-defined]
