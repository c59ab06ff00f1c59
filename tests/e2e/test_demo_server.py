"""The demo model behind a real server, through real clients."""

from __future__ import annotations

import asyncio
import json
import random
import time
import urllib.request

import httpx
import openai
import psutil
import pytest

from e2e.server import running

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server():
    with running("demo", "--port", "0") as server:
        yield server


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")


def test_chat_answers_paris(client):
    reply = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
    assert "Paris" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens == 37
    assert reply.usage.completion_tokens == 8


def test_chat_streams_the_same(client):
    chunks = list(
        client.chat.completions.create(
            model="demo", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "The capital of France is Paris."
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) >= 6
    assert chunks[-1].usage.completion_tokens == 8


def test_curl_level_stream(server):
    body = json.dumps({"messages": QUESTION, "stream": True, "temperature": 0}).encode()
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        lines = response.read().decode().splitlines()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert lines[-2] == "data: [DONE]"
    assert all(line == "" or line.startswith("data: ") for line in lines)


def test_completions_seed_and_stop(client):
    def ask(**kw):
        return client.completions.create(model="demo", prompt="The sky is", max_tokens=24, **kw).choices[0]

    assert ask(temperature=1.0, seed=5).text == ask(temperature=1.0, seed=5).text
    whole = ask(temperature=0).text
    word = whole.split()[3]
    cut = ask(temperature=0, stop=[word])
    assert cut.text == whole[: whole.index(word)]
    assert cut.finish_reason == "stop"


def test_many_at_once_get_what_they_get_alone(server):
    prompts = [f"{name} is a city in" for name in ("Rome", "Lyon", "Oslo", "Lima", "Kyoto", "Perth", "Quito", "Turin")]

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            calls = [client.completions.create(model="demo", prompt=p, max_tokens=8, temperature=0) for p in prompts]
            return [r.choices[0].text for r in await asyncio.gather(*calls)]

    together = asyncio.run(all_at_once())
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        alone = [
            client.completions.create(model="demo", prompt=p, max_tokens=8, temperature=0).choices[0].text
            for p in prompts
        ]
    assert together == alone


def test_native_generate(server):
    answer = httpx.post(
        f"{server.url}/generate",
        json={
            "text": ["The capital of France is", "1 2 3 4"],
            "sampling_params": {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True},
            "return_logprob": True,
        },
        timeout=60,
    ).json()
    assert answer[0]["text"].startswith(" Paris")
    assert len(answer[1]["output_ids"]) == 4
    assert len(answer[1]["meta_info"]["output_token_logprobs"]) == 4


def ttft(url: str, ids: list[int]) -> tuple[float, int]:
    """(seconds to the first chunk, cached tokens) of a streamed native request."""
    body = {"input_ids": ids, "stream": True, "sampling_params": {"temperature": 0, "max_new_tokens": 2}}
    start = time.perf_counter()
    with httpx.stream("POST", f"{url}/generate", json=body, timeout=60) as response:
        lines = response.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        elapsed = time.perf_counter() - start
        list(lines)
    return elapsed, json.loads(first[6:])["meta_info"]["cached_tokens"]


def test_a_shared_prefix_is_served_from_the_cache(server):
    ratios = []
    for seed in range(3):  # a busy machine may spoil one timing
        rng = random.Random(seed)
        prefix = [rng.randrange(100, 40000) for _ in range(1000)]
        cold, nothing = ttft(server.url, [*prefix, 5, 6, 7])
        warm, cached = ttft(server.url, [*prefix, 8, 9, 10])
        assert nothing == 0
        assert cached >= 0.95 * 1003
        ratios.append(warm / cold)
    assert min(ratios) <= 0.35, ratios


def metric(url: str, name: str) -> float:
    line = next(s for s in httpx.get(f"{url}/metrics").text.splitlines() if s.startswith(f"sglcore:{name}{{"))
    return float(line.rsplit(" ", 1)[1])


def wait_for_idle(url: str, seconds: float = 5.0) -> None:
    deadline = time.perf_counter() + seconds
    while metric(url, "num_running_reqs"):
        assert time.perf_counter() < deadline, "a request goes on after its client left"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request(server, stream):
    body = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": stream, "temperature": 0}
    aborted = metric(server.url, "num_aborted_requests_total")
    if stream:
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/completions", json=body, timeout=1.0)
    wait_for_idle(server.url)
    assert metric(server.url, "num_aborted_requests_total") == aborted + 1


def test_abort_request_ends_a_stream(server):
    body = {
        "text": "Once upon a time",
        "rid": "tale",
        "stream": True,
        "sampling_params": {"max_new_tokens": 4000, "ignore_eos": True},
    }
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        assert httpx.post(f"{server.url}/abort_request", json={"rid": "tale"}).status_code == 200
        *_, last, done = [line for line in lines if line]
    assert done == "data: [DONE]"
    assert json.loads(last[6:])["meta_info"]["finish_reason"]["type"] == "abort"


def test_health_info_and_flush(server):
    get = lambda path: httpx.get(server.url + path, timeout=60)  # noqa: E731
    assert get("/health").status_code == get("/health_generate").status_code == 200
    assert get("/model_info").json() == get("/get_model_info").json()
    info = get("/server_info").json()
    assert info["internal_states"][0]["platform"] == "cpu"
    assert info["decisions"]["models"] and info["decisions"]["choice"]["platform"] == "cpu"
    told = [line for line in server.log if "Plugins chosen: platform cpu" in line]
    assert len(told) == 1 and " INFO " in told[0]
    wait_for_idle(server.url)
    assert httpx.post(f"{server.url}/flush_cache").status_code == 200
    ids = httpx.post(f"{server.url}/tokenize", json={"prompt": "Hello there"}).json()["tokens"]
    assert httpx.post(f"{server.url}/detokenize", json={"tokens": ids}).json()["text"] == "Hello there"


BAD = [
    (b"{", "application/json", 400),
    (b"[]", "application/json", 400),
    (b'{"messages": 3}', "application/json", 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0.5}', "application/json", 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 100000}', "application/json", 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "temperature": -1}', "application/json", 400),
    (
        b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}}',
        "application/json",
        400,
    ),
    (b'{"messages": [{"role": "user", "content": "x"}], "model": "other"}', "application/json", 404),
]


@pytest.mark.parametrize(("body", "kind", "status"), BAD)
def test_bad_requests_get_a_clear_answer_and_the_server_goes_on(server, body, kind, status):
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert "Traceback" not in answer.text
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_prompt_longer_than_the_context_names_the_numbers(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="demo", prompt=[5] * 9000, max_tokens=1)
    assert "8192" in str(error.value)


def test_idle_server_uses_no_cpu(server):
    wait_for_idle(server.url)
    processes = [psutil.Process(server.process.pid), server.engine()]

    def used() -> float:
        return sum(sum(p.cpu_times()[:2]) for p in processes)

    before, start = used(), time.perf_counter()
    time.sleep(3)  # the measuring interval itself
    assert (used() - before) / (time.perf_counter() - start) < 0.01
