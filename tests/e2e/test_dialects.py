"""The dialects of plugins before the demo model: `sglcore serve` with two API workers, asked by official clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import ollama
import pytest

from e2e.server import Server, running

KEY = "secret"
HEADERS = {"Authorization": f"Bearer {KEY}"}
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France? One word."}]
REFERENCE = {"messages": QUESTION, "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("demo", "--port", "0", "--api-key", KEY, "--api-workers", "2") as server:
        yield server


@pytest.fixture(scope="module")
def said(server: Server) -> str:
    """What OpenAI's dialect answers: with temperature 0 all of them must say it."""
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=REFERENCE, headers=HEADERS, timeout=60).json()
    content: str = answer["choices"][0]["message"]["content"]
    assert "Paris" in content
    return content


def test_anthropic(server: Server, said: str) -> None:
    body: dict[str, Any] = {"model": "demo", "max_tokens": 12, "messages": QUESTION, "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
        whole = client.messages.create(**body)
        assert [block.text for block in whole.content if block.type == "text"] == [said]
        with client.messages.stream(**body) as stream:
            assert "".join(stream.text_stream) == said
            last = stream.get_final_message()
        assert last.stop_reason == whole.stop_reason
        counted = client.messages.count_tokens(model="demo", messages=QUESTION).input_tokens
        usage = last.usage
        assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="wrong").messages.create(**body)


def test_ollama(server: Server, said: str) -> None:
    client = ollama.Client(server.url, headers=HEADERS, timeout=60)
    body: dict[str, Any] = {"messages": QUESTION, "options": {"temperature": 0, "num_predict": 12}}
    name = client.list().models[0].model or ""
    assert name == "demo:latest"
    whole = client.chat(name, **body)
    assert whole.message.content == said
    assert "".join(part.message.content or "" for part in client.chat(name, **body, stream=True)) == said
    generated = client.generate(name, QUESTION[0]["content"], options=body["options"])
    assert generated.response == said
    assert generated.eval_count == whole.eval_count
    raw = client.generate(name, "The capital of France is", raw=True, options=body["options"])
    assert "Paris" in raw.response


def test_sagemaker(server: Server, said: str) -> None:
    assert httpx.get(f"{server.url}/ping").status_code == 200
    answer = httpx.post(f"{server.url}/invocations", json=REFERENCE, headers=HEADERS, timeout=60).json()
    assert answer["choices"][0]["message"]["content"] == said
    assert httpx.post(f"{server.url}/invocations", json=REFERENCE).status_code == 401


def test_the_dialects_are_kept_apart_by_the_flag() -> None:
    with running("demo", "--port", "0", "--apis", "anthropic") as server:
        assert httpx.get(f"{server.url}/api/tags").status_code == 404
        assert httpx.get(f"{server.url}/ping").status_code == 404
        assert httpx.get(f"{server.url}/v1/messages").json()["type"] == "error"
