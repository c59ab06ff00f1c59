"""Ollama's own client against a live server over the scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from server.dialects import ANSWER, CONTEXT, FINAL, THOUGHT, Live, live
from server.parsing import NOW, TEXT, WEATHER

TOOLS: Any = [WEATHER, NOW]
TOKENS = len(TEXT.encode(ANSWER)) + 1


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    yield from live()


@pytest.fixture
def client(server: Live) -> ollama.Client:
    return ollama.Client(server.url, timeout=20)


def ask(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


@pytest.mark.parametrize("model", ["tiny", "tiny:latest"])
def test_a_chat(client: ollama.Client, model: str) -> None:
    answer = client.chat(**ask(model=model, keep_alive="5m"))
    assert (answer.model, answer.message.role, answer.message.content) == (model, "assistant", ANSWER)
    assert (answer.done, answer.done_reason, answer.message.thinking) == (True, "stop", None)
    assert answer.eval_count == TOKENS and answer.prompt_eval_count
    assert answer.eval_duration and answer.prompt_eval_duration and answer.total_duration
    assert answer.total_duration >= answer.eval_duration + answer.prompt_eval_duration


def test_a_stream(client: ollama.Client) -> None:
    parts: Any = list(client.chat(**ask(stream=True)))
    assert len(parts) > 5
    assert "".join(part.message.content for part in parts) == ANSWER
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", TOKENS)


@pytest.mark.parametrize("stream", [False, True])
def test_a_whole_round_of_tools(client: ollama.Client, stream: bool) -> None:
    body = ask("Weather?", tools=TOOLS, stream=stream)
    answer: Any = client.chat(**body)
    parts = list(answer) if stream else [answer]
    assert "".join(part.message.thinking or "" for part in parts) == THOUGHT
    assert "".join(part.message.content or "" for part in parts) == "Let me look."
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(c.function.name, c.function.arguments) for c in calls] == [
        ("get_weather", {"city": "Zürich 🎉"}),
        ("now", {}),
    ]
    assert parts[-1].done_reason == "stop"
    said = ollama.Message(role="assistant", content="Let me look.", thinking=THOUGHT, tool_calls=calls)
    results = [{"role": "tool", "content": "12", "tool_name": call.function.name} for call in calls]
    second = client.chat(**ask(messages=[*body["messages"], said, *results], tools=TOOLS))
    assert second.message.content == FINAL


def test_a_function_as_a_tool(client: ollama.Client) -> None:
    def now(zone: str) -> str:
        """The time.

        Args:
          zone: where
        """
        return zone

    answer = client.chat(**ask("Weather?", tools=[now]))
    assert [call.function.name for call in answer.message.tool_calls or ()] == ["now"]


def test_thinking(client: ollama.Client) -> None:
    assert client.chat(**ask("Weather?", think=True)).message.thinking == THOUGHT
    assert client.chat(**ask("Weather?", think="low")).message.thinking == THOUGHT
    assert client.chat(**ask("Weather?", think=False)).message.thinking is None
    assert client.generate("tiny", "Weather?").thinking == THOUGHT


def test_generate(client: ollama.Client, server: Live) -> None:
    answer = client.generate("tiny", "hello", system="Be kind.")
    assert (answer.response, answer.done, answer.done_reason) == (ANSWER, True, "stop")
    assert "system\nBe kind." in prompt(server)
    parts = list(client.generate("tiny", "hello", stream=True))
    assert "".join(part.response or "" for part in parts) == ANSWER


def prompt(server: Live) -> str:
    return TEXT.decode(server.engine.requests[-1].token_ids().tolist(), skip_special_tokens=False)


def test_raw_prompts_go_as_they_are(client: ollama.Client, server: Live) -> None:
    assert client.generate("tiny", "hello", raw=True).response == ANSWER
    asked = server.engine.requests[-1]
    assert prompt(server) == "hello"
    assert asked.sampling.max_new_tokens == CONTEXT - len(asked.token_ids())


def test_options(client: ollama.Client, server: Live) -> None:
    options = {"temperature": 0.5, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "seed": 7, "repeat_penalty": 1.5}
    options |= {"presence_penalty": 0.25, "frequency_penalty": 0.75, "num_ctx": 2048, "mirostat": 1, "stop": [", how"]}
    answer = client.chat(**ask(options=options))
    assert answer.message.content == ANSWER.split(", how")[0]
    s = server.engine.requests[-1].sampling
    assert (s.temperature, s.top_k, s.top_p, s.min_p, s.seed) == (0.5, -1, 0.9, 0.1, 7)
    assert (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) == (1.5, 0.25, 0.75)
    assert 'field="options.mirostat"' in httpx.get(f"{server.url}/metrics").text


@pytest.mark.parametrize("raw", [False, True])
def test_how_many_tokens(client: ollama.Client, server: Live, raw: bool) -> None:
    short = client.generate("tiny", "hello", raw=raw, options={"num_predict": 3})
    assert (short.done_reason, short.eval_count) == ("length", 3)
    for unbounded in (-1, -2, 0, CONTEXT - 1, 10**6):
        answer = client.generate("tiny", "hello", raw=raw, options={"num_predict": unbounded, "seed": -1})
        asked = server.engine.requests[-1]
        assert (answer.response, asked.sampling.max_new_tokens) == (ANSWER, CONTEXT - len(asked.token_ids()))


def test_loading(client: ollama.Client) -> None:
    assert client.generate("tiny").done_reason == "load"
    assert client.chat("tiny:latest", keep_alive=0).done_reason == "load"
    (part,) = client.generate("tiny", stream=True)
    assert (part.done, part.done_reason) == (True, "load")


def test_the_library(client: ollama.Client, server: Live) -> None:
    (listed,) = client.list().models
    assert listed.model == "tiny:latest" and len(listed.digest or "") == 64
    (running,) = client.ps().models
    assert (running.model, running.context_length) == ("tiny:latest", CONTEXT)
    shown = client.show("tiny")
    assert shown.details is not None and shown.details.family == "llama"
    assert (shown.modelinfo or {})["llama.context_length"] == CONTEXT
    assert shown.capabilities is not None and "completion" in shown.capabilities
    assert client.pull("tiny:latest").status == "success"
    assert [part.status for part in client.pull("tiny", stream=True)] == ["success"]
    assert httpx.head(f"{server.url}/").status_code == 200
    assert httpx.get(f"{server.url}/api/version").json()["version"]


def refused(status: int, call: Any, *args: Any, **fields: Any) -> str:
    with pytest.raises(ollama.ResponseError) as error:
        call(*args, **fields)
    assert error.value.status_code == status
    return str(error.value.error)


def test_errors_have_the_clients_type(client: ollama.Client) -> None:
    assert "tiny" in refused(404, client.chat, **ask(model="other"))
    assert "tiny:latest" in refused(404, client.show, "other")
    refused(404, client.generate, "other")
    refused(404, client.pull, "other")
    assert refused(400, client.chat, **ask(options={"temperature": -1})).startswith("`options.temperature` must")
    assert refused(400, client.chat, **ask(options={"num_predict": -9})).startswith("`options.num_predict` must")
    for form in ("json", {"type": "object"}):
        message = refused(400, client.chat, **ask(format=form))
        assert "`format`" in message and "`grammars`" in message
    assert "vision" in refused(400, client.generate, "tiny", "What?", images=["aGVsbG8="])
    assert "/api/chat" in refused(400, client.generate, "tiny", "What?", context=[1, 2])
    assert "template" in refused(400, client.generate, "tiny", "What?", template="{{ .Prompt }}")


def test_what_cannot_be_changed(client: ollama.Client) -> None:
    for call, args in ((client.create, ("x",)), (client.copy, ("tiny", "x")), (client.push, ("tiny",))):
        assert "one model" in refused(400, call, *args)
    with pytest.raises(ollama.ResponseError, match="one model"):
        client.delete("tiny")
    assert "no embeddings" in refused(400, client.embed, "tiny", "hello")
    assert "no embeddings" in refused(400, client.embeddings, "tiny", "hello")


def test_a_failure_in_the_middle_of_a_stream(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="Out of luck"):
        list(client.chat(**ask("Break", stream=True)))
    assert "Told to stop" in refused(503, client.chat, **ask("Abort"))
    with pytest.raises(ollama.ResponseError, match="Told to stop"):
        list(client.chat(**ask("Abort", stream=True)))


def test_a_timeout_aborts(server: Live) -> None:
    with server.expect_left(), pytest.raises(httpx.ReadTimeout):
        ollama.Client(server.url, timeout=0.5).chat(**ask("Hang"))


def test_leaving_a_stream_aborts(client: ollama.Client, server: Live) -> None:
    with server.expect_left():
        parts: Any = client.chat(**ask("Hang", stream=True))
        assert next(parts).message.content == "ok"
        parts.close()


@pytest.mark.asyncio
async def test_the_asynchronous_client(server: Live) -> None:
    client = ollama.AsyncClient(server.url, timeout=20)
    answers = await asyncio.gather(*[client.chat(**ask()) for _ in range(16)])
    assert {answer.message.content for answer in answers} == {ANSWER}
    parts = [part async for part in await client.generate("tiny", "hello", stream=True)]
    assert "".join(part.response or "" for part in parts) == ANSWER
    with pytest.raises(ollama.ResponseError):
        await client.chat(**ask(model="other"))


def test_keys_are_told_in_the_dialect() -> None:
    for server in live(api_key="k"):
        with pytest.raises(ollama.ResponseError, match="API key") as error:
            ollama.Client(server.url).list()
        assert error.value.status_code == 401
        with_key = ollama.Client(server.url, headers={"Authorization": "Bearer k"})
        assert with_key.chat(**ask()).message.content == ANSWER
        assert httpx.head(f"{server.url}/").status_code == 200


def test_the_banner_stands_where_no_page_does(server: Live) -> None:
    assert "Ollama" not in httpx.get(f"{server.url}/").text
    for bare in live(no_ui=True):
        assert httpx.get(f"{bare.url}/").text == "Ollama is running"
        assert httpx.head(f"{bare.url}/").status_code == 200
