"""The clients before the demo model, a real one: with temperature 0 every dialect and client must say the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import openai
import pytest
import requests
from langchain_openai import ChatOpenAI

from clients.served import HEADERS, KEY, ONE_THREAD, busy, expect_abort, user
from e2e.server import Server, running

QUESTION = "What is the capital of France?"
SAID = "The capital of France is Paris."
SETTINGS: dict[str, Any] = {"max_retries": 0, "timeout": 120}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("demo", "--port", "0", "--api-key", KEY, environment=ONE_THREAD) as server:
        yield server


def test_openai(server: Server) -> None:
    body: dict[str, Any] = {"model": "demo", "messages": user(QUESTION), "temperature": 0}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, **SETTINGS) as client:
        assert client.chat.completions.create(**body).choices[0].message.content == SAID
        chunks = client.chat.completions.create(**body, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SAID
        made = client.completions.create(model="demo", prompt="The capital of France is", temperature=0, max_tokens=4)
        assert "Paris" in made.choices[0].text
        assert client.responses.create(model="demo", input=QUESTION, temperature=0).output_text == SAID


def test_anthropic(server: Server) -> None:
    body: dict[str, Any] = {"model": "demo", "max_tokens": 30, "messages": user(QUESTION)}
    client = anthropic.Anthropic(base_url=server.url, api_key=KEY, **SETTINGS)
    with client, client.messages.stream(**body, extra_body={"temperature": 0}) as stream:
        assert "".join(stream.text_stream) == SAID


def test_ollama(server: Server) -> None:
    client = ollama.Client(server.url, headers=HEADERS, timeout=120)
    name = client.list().models[0].model or ""
    parts = client.chat(name, user(QUESTION), options={"temperature": 0}, stream=True)
    assert "".join(part.message.content or "" for part in parts) == SAID


def test_langchain(server: Server) -> None:
    settings: dict[str, Any] = {"base_url": f"{server.url}/v1", "api_key": KEY, "model": "demo", "temperature": 0}
    chat = ChatOpenAI(**settings, **SETTINGS)
    assert chat.invoke(QUESTION).content == SAID
    assert "".join(str(chunk.content) for chunk in chat.stream(QUESTION)) == SAID


def test_requests(server: Server) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    body = {"text": prompts, "sampling_params": {"temperature": 0, "max_new_tokens": 4}}
    answers = requests.post(f"{server.url}/generate", json=body, headers=HEADERS, timeout=120).json()
    assert [city in answer["text"] for city, answer in zip(("Paris", "Rome"), answers, strict=True)] == [True, True]


def test_a_timeout_leaves_the_engine_idle(server: Server) -> None:
    body: dict[str, Any] = {"model": "demo", "messages": user("Count."), "max_tokens": 4000}
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=0.5)
    with client, expect_abort(server), pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**body, extra_body={"ignore_eos": True})
    assert busy(server) == 0
