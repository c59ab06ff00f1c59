"""What programs written for SGLang send, against `sglcore serve`: plain requests, and its benchmark's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from clients.served import HEADERS, HELLO, NAME, STORY, Server, busy, expect_abort, scripted, until, user

COUNT = "<|im_start|>user\nCount<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture
def session(server: Server) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers.update(HEADERS)
        yield session


def lines(response: requests.Response) -> list[Any]:
    """The events of a stream, read as programs do that know no SSE."""
    found = []
    for raw in response.iter_lines(decode_unicode=False):
        line = raw.decode()
        if not line.startswith("data:"):
            continue
        if line == "data: [DONE]":
            return found
        found.append(json.loads(line[5:].strip("\n")))
    raise AssertionError("the stream has no end")


def test_generate(server: Server, session: requests.Session) -> None:
    body = {"text": "Once upon", "sampling_params": {"temperature": 0, "max_new_tokens": 64}}
    answer = session.post(f"{server.url}/generate", json=body, timeout=60).json()
    assert answer["text"] == STORY
    assert answer["meta_info"]["finish_reason"]["type"] == "stop"
    assert answer["meta_info"]["completion_tokens"] == len(STORY) + 1
    many = session.post(f"{server.url}/generate", json=body | {"text": ["Once upon"] * 3}, timeout=60).json()
    assert [one["text"] for one in many] == [STORY] * 3
    ids = session.post(f"{server.url}/v1/tokenize", json={"model": NAME, "prompt": "Once upon"}, timeout=60).json()
    by_ids = {"input_ids": ids["tokens"], "sampling_params": body["sampling_params"], "return_logprob": True}
    answer = session.post(f"{server.url}/generate", json=by_ids, timeout=60).json()
    assert answer["text"] == STORY and answer["output_ids"]
    assert len(answer["meta_info"]["output_token_logprobs"]) == len(STORY) + 1
    session.put(f"{server.url}/generate", json=body, timeout=60).raise_for_status()


def test_a_stream_holds_the_whole_text_each_time(server: Server, session: requests.Session) -> None:
    body = {"text": "Once upon", "sampling_params": {"temperature": 0, "max_new_tokens": 64}, "stream": True}
    events = lines(session.post(f"{server.url}/generate", json=body, stream=True, timeout=60))
    said = ""
    for event in events:
        assert event["text"].startswith(said)
        said = event["text"]
    assert said == STORY and len(events) > 5


def test_the_template_applied_by_the_program(server: Server, session: requests.Session) -> None:
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    body = {"text": prompt, "sampling_params": {"max_new_tokens": 99, "stop": ["<|im_end|>"]}}
    assert session.post(f"{server.url}/generate", json=body, timeout=60).json()["text"] == HELLO


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/health", None),
        ("/health_generate", None),
        ("/get_model_info", {"model_path", "is_generation"}),
        ("/model_info", {"model_path", "is_generation"}),
        ("/get_server_info", {"internal_states", "version"}),
        ("/server_info", {"internal_states", "version"}),
        ("/v1/models", {"data"}),
    ],
)
def test_what_launchers_ask_first(server: Server, session: requests.Session, path: str, keys: Any) -> None:
    answer = session.get(f"{server.url}{path}", timeout=60)
    assert answer.status_code == 200
    assert keys is None or keys <= set(answer.json())


def test_abort_by_rid(server: Server, session: requests.Session) -> None:
    body = {"text": COUNT, "sampling_params": {"max_new_tokens": 60_000}, "rid": "mine", "stream": True}
    with session.post(f"{server.url}/generate", json=body, stream=True, timeout=60) as response:
        until(lambda: busy(server) == 1)
        with expect_abort(server):
            requests.post(f"{server.url}/abort_request", json={"rid": "mine"}, headers=HEADERS, timeout=60)
        assert lines(response)[-1]["meta_info"]["finish_reason"]["type"] == "abort"


def test_a_timeout_aborts(server: Server, session: requests.Session) -> None:
    body = {"text": COUNT, "sampling_params": {"max_new_tokens": 60_000}}
    with expect_abort(server), pytest.raises(requests.Timeout):
        session.post(f"{server.url}/generate", json=body, timeout=0.7)


def test_errors(server: Server, session: requests.Session) -> None:
    for body in ({"text": "x", "sampling_params": {"top_p": 7}}, {}, {"text": 3}):
        answer = session.post(f"{server.url}/generate", json=body, timeout=60)
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    for path in ("/encode", "/classify"):
        answer = session.post(f"{server.url}{path}", json={"text": "x"}, timeout=60)
        assert answer.status_code == 400 and "generates text" in answer.text
    assert requests.post(f"{server.url}/generate", json={"text": "x"}, timeout=60).status_code == 401


NATIVE_RUN: dict[str, Any] = {
    "text": "It was Once upon",
    "sampling_params": {"temperature": 0.0, "max_new_tokens": 40, "ignore_eos": True},
    "stream": True,
    "lora_path": None,
    "return_logprob": False,
    "return_routed_experts": False,
    "logprob_start_len": -1,
    "image_data": None,
}
COMPLETIONS_RUN: dict[str, Any] = {
    "model": NAME,
    "prompt": "It was Once upon",
    "temperature": 0.0,
    "best_of": 1,
    "max_tokens": 40,
    "stream": True,
    "ignore_eos": True,
}
CHAT_RUN: dict[str, Any] = {
    "model": NAME,
    "messages": user("Hi"),
    "temperature": 0.0,
    "max_completion_tokens": 40,
    "stream": True,
    "ignore_eos": True,
    "stream_options": {"include_usage": True},
}


def test_the_benchmarks_native_requests(server: Server, session: requests.Session) -> None:
    session.post(f"{server.url}/flush_cache", timeout=60).raise_for_status()
    events = lines(session.post(f"{server.url}/generate", json=NATIVE_RUN, stream=True, timeout=60))
    counts = [event["meta_info"]["completion_tokens"] for event in events]
    assert counts == sorted(counts) and counts[-1] == 40 and events[0]["text"]


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", COMPLETIONS_RUN), ("/v1/chat/completions", CHAT_RUN)])
def test_the_benchmarks_openai_requests(server: Server, session: requests.Session, path: str, body: Any) -> None:
    events = lines(session.post(f"{server.url}{path}", json=body, stream=True, timeout=60))
    choices = [event["choices"][0] for event in events if event["choices"]]
    text = "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)
    assert text.startswith(STORY if "prompt" in body else HELLO)
    if "stream_options" in body:
        assert events[-1]["usage"]["completion_tokens"] == 40
