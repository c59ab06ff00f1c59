"""kill -9 of the engine under load: every stream goes on where it was, and no client sees more than a pause."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from e2e.server import Server, running
from parity.tiny import make

STREAMS, TOKENS, KILLS = 32, 160, 3
FLAGS = (
    *("--skip-tokenizer-init", "--port", "0", "--page-size", "4", "--max-total-tokens", "40000"),
    *("--json-model-override-args", '{"max_position_embeddings": 65536}', "--max-running-requests", "48"),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("models"))[0]


def asks() -> list[dict[str, Any]]:
    """Greedy streams, some with penalties, logprobs, n = 3, or seeded sampling."""
    found: list[dict[str, Any]] = []
    for number in range(STREAMS):
        sampling: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        body: dict[str, Any] = {"input_ids": [number + 1, 7, 9] * (1 + number % 5), "sampling_params": sampling}
        if number % 8 == 1:
            sampling |= {"frequency_penalty": 0.2, "repetition_penalty": 1.05}
        if number % 8 == 2:
            body |= {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
        if number % 8 == 3:
            sampling |= {"n": 3, "temperature": 0.8, "sampling_seed": number, "max_new_tokens": TOKENS // 4}
        if number % 8 == 4:
            sampling |= {"temperature": 1.0, "sampling_seed": number}
        found.append(body)
    return found


def last_answers(url: str, body: dict[str, Any]) -> Any:
    """The final cumulative answer of a stream (by branch), with its logprobs."""
    answers: dict[int, Any] = {}
    with httpx.stream("POST", f"{url}/generate", json={**body, "stream": True}, timeout=240) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                answer = json.loads(line[6:])
                assert "error" not in answer, answer
                answers[answer.get("index", 0)] = answer
    return [outline(answers[index]) for index in sorted(answers)]


def outline(answer: dict[str, Any]) -> dict[str, Any]:
    meta = answer["meta_info"]
    return {
        "ids": answer["output_ids"],
        "finish": meta["finish_reason"],
        "tokens": meta["completion_tokens"],
        "logprobs": [p[:2] for p in meta.get("output_token_logprobs", [])],
        "input": [p[:2] for p in meta.get("input_token_logprobs", [])],
    }


def same(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        for key in ("ids", "finish", "tokens"):
            assert a[key] == b[key], key
        for key in ("logprobs", "input"):
            assert len(a[key]) == len(b[key]), key
            for (x, i), (y, j) in zip(a[key], b[key], strict=True):
                assert i == j and (x == y or x == pytest.approx(y, abs=1e-4))


def engine_pid(server: Server) -> psutil.Process | None:
    try:
        return server.engine()
    except (StopIteration, psutil.NoSuchProcess):
        return None


def kill_when_busy(server: Server, done: threading.Event) -> int:
    """kill -9 an engine that is generating, `KILLS` times; returns how often it did."""
    kills = 0
    while kills < KILLS and not done.is_set():
        process = engine_pid(server)
        metrics = httpx.get(f"{server.url}/server_info", timeout=10).json() if process else {}
        state = (metrics.get("internal_states") or [{}])[0].get("internal_states") or [{}]
        if process is not None and state[0].get("num_running_reqs", 0) >= STREAMS // 2:
            process.kill()
            process.wait(20)
            kills += 1
            wait_until(lambda: httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200, 60)
    return kills


def wait_until(true: Any, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        threading.Event().wait(0.05)


def check_session(server: Server) -> None:
    """What was said before a death is there after it."""
    url = server.url
    session = httpx.post(f"{url}/open_session", json={"capacity_of_str_len": 0}).json()
    body: dict[str, Any] = {"input_ids": [3, 4, 5], "sampling_params": {"max_new_tokens": 6, "temperature": 0}}
    body["sampling_params"]["ignore_eos"] = True
    params = {"id": session, "rid": None}
    first = httpx.post(f"{url}/generate", json={**body, "rid": "one", "session_params": params}).json()
    params["rid"] = "one"
    said = {**body, "input_ids": [8], "session_params": params}
    second = httpx.post(f"{url}/generate", json={**said, "rid": "two"}).json()
    engine = server.engine()
    engine.kill()
    engine.wait(20)
    wait_until(lambda: httpx.get(f"{url}/readyz", timeout=5).status_code == 200, 60)
    again = httpx.post(f"{url}/generate", json={**said, "rid": "three"}).json()
    assert again["output_ids"] == second["output_ids"]
    assert again["meta_info"]["prompt_tokens"] == 3 + len(first["output_ids"]) + 1


def test_three_kills_under_32_streams_change_nothing(tiny):
    bodies = asks()
    with running(str(tiny), *FLAGS) as server, ThreadPoolExecutor(STREAMS + 1) as pool:
        calm = list(pool.map(lambda body: last_answers(server.url, body), bodies))
        done = threading.Event()
        killer = pool.submit(kill_when_busy, server, done)
        answers = list(pool.map(lambda body: last_answers(server.url, body), bodies))
        done.set()
        assert killer.result() == KILLS
        for one, other in zip(calm, answers, strict=True):
            same(one, other)
        info = httpx.get(f"{server.url}/server_info").json()
        assert info["engine_restarts"] == KILLS
        print(f"resumed in {info['engine_resumed_in']:.1f} s after the last kill")
        check_session(server)
    assert "Traceback" not in "".join(server.log)
