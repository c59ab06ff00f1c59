"""The official client's Responses API against a real uvicorn server over the scripted engine."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from server.parsing import TEXT, parsers
from server.scripted import ScriptedEngine, server_context
from server.test_responses import TOOLS, WROTE, script
from sglcore.server import build_app, build_server, listen
from sglcore.server_config import ServerConfig

THOUGHT = "I look it up."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    flags = ServerConfig(model_path="org/tiny-model", port=0)
    sock = listen(flags)
    context = server_context(ScriptedEngine(script), TEXT, model={"context_length": 4096})
    context.parsers = parsers("hermes", "qwen3")
    server = build_server(build_app(context), flags)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client:
        yield client


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "Weather?", "tools": TOOLS, **fields}


def test_a_round_of_tools(client: openai.OpenAI) -> None:
    body = ask()
    first: Any = client.responses.create(**body)
    assert first.status == "completed" and first.output_text == "Well:"
    calls = [item for item in first.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["get_weather", "now"]
    assert json.loads(calls[0].arguments) == {"city": "Zürich 🎉"}
    results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    second: Any = client.responses.create(**ask(input=results, previous_response_id=first.id))
    assert second.output_text == "It rains."
    # the same, with the items sent back instead of kept
    items: Any = [{"role": "user", "content": "Weather?"}, *[i.model_dump() for i in first.output], *results]
    third: Any = client.responses.create(**ask(input=items, store=False))
    assert third.output_text == "It rains."
    assert third.usage.input_tokens == second.usage.input_tokens


def test_a_stream_puts_the_response_together(client: openai.OpenAI) -> None:
    with client.responses.stream(**ask()) as stream:
        events: list[Any] = list(stream)
        final: Any = stream.get_final_response()
    assert [e.sequence_number for e in events if hasattr(e, "sequence_number")]
    kinds = {e.type for e in events}
    assert {"response.created", "response.output_text.delta", "response.reasoning_text.delta"} <= kinds
    assert {"response.function_call_arguments.done", "response.completed"} <= kinds
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == THOUGHT
    assert final.output_text == "Well:" and final.output[0].content[0].text == THOUGHT
    plain: Any = client.responses.create(**ask(stream=True))
    assert [e.type for e in plain][-1] == "response.completed"


def test_kept_responses(client: openai.OpenAI) -> None:
    made: Any = client.responses.create(**ask(metadata={"a": "b"}))
    kept = client.responses.retrieve(made.id)
    assert kept == made
    (item,) = client.responses.input_items.list(made.id)
    assert item.type == "message" and item.content[0].text == "Weather?"
    assert client.responses.input_tokens.count(model="tiny", input="Weather?", tools=TOOLS).input_tokens == (
        made.usage.input_tokens
    )
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_background_and_cancel(client: openai.OpenAI) -> None:
    begun = client.responses.create(model="tiny", input="wait for ever", background=True)
    assert begun.status == "queued"
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.retrieve(begun.id).status == "cancelled"


def test_errors_have_the_clients_types(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as strict:
        client.responses.create(**ask(tools=[TOOLS[0] | {"strict": True}]))
    assert strict.value.param == "tools[0].strict" and "grammars" in str(strict.value)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**ask(model="other"))
    picture: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]
    with pytest.raises(openai.BadRequestError) as image:
        client.responses.create(**ask(input=picture))
    assert image.value.param == "input[0].content[0]"


@pytest.mark.asyncio
async def test_the_asynchronous_client(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client:
        made: Any = await asyncio.gather(*[client.responses.create(**ask()) for _ in range(12)])
        assert len({m.id for m in made}) == 12 and {m.output_text for m in made} == {"Well:"}
        async with client.responses.stream(**ask()) as stream:
            said = [e.delta async for e in stream if e.type == "response.output_text.delta"]
        assert "".join(said) == "Well:" and "Well:" in WROTE


def test_other_endpoints_through_the_client(client: openai.OpenAI) -> None:
    assert client.models.retrieve("tiny").model_dump()["max_model_len"] == 4096
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError) as adapter:
        client.models.retrieve("tiny:mine")
    assert adapter.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError) as kind:
        client.embeddings.create(model="tiny", input=["a", "b"])
    assert kind.value.code == "wrong_model_kind"
    hello: Any = [{"role": "user", "content": "Weather?"}]
    answer: Any = client.chat.completions.create(
        model="tiny", messages=hello, store=True, metadata={"a": "b"}, service_tier="auto", user="u"
    )
    assert answer.service_tier == "default" and answer.usage.completion_tokens_details.reasoning_tokens > 0
    with pytest.raises(openai.BadRequestError) as old:
        client.chat.completions.create(model="tiny", messages=hello, functions=[{"name": "f"}])
    assert "tools" in str(old.value)
