"""Every route asked by schemathesis: no 5xx, no hang, every answer as `/openapi.json` says, and nothing held after it.

In bulk before an engine that answers at once, and a sample before the demo model with two API workers and both keys.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from starlette.requests import Request
from starlette.responses import Response

from e2e.fuzz_server import fuzz_server
from e2e.openapi_fuzz import DEADLINE, Fuzz
from e2e.server import Server, running
from server.dialects import Live
from server.scripted import ScriptedEngine, server_context, tiny_text
from sglcore.contracts.routes import RouteDoc, RouteEntry
from sglcore.server import build_app, build_server, listen
from sglcore.server_config import ServerConfig

KEY, ADMIN = "user-key", "admin-key"
BACKGROUND = {"input": "Hello", "max_output_tokens": 4, "background": True}
FLAGS = (
    *("--port", "0", "--api-workers", "2", "--api-key", KEY, "--admin-api-key", ADMIN),
    *("--context-length", "64", "--request-timeout", "60"),
)
STREAMING = (
    *("POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses", "POST /generate"),
    *("POST /v1/messages", "POST /api/chat", "POST /api/generate"),
)


@pytest.fixture(scope="module")
def bulk() -> Iterator[Live]:
    live = fuzz_server(no_ui=False)
    yield live
    live.stop()


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    with running("demo", *FLAGS) as server:
        yield server


def in_bulk(live: Live, each: int) -> Fuzz:
    responses = [requests.post(f"{live.url}/v1/responses", json=BACKGROUND, timeout=DEADLINE) for _ in range(40)]
    names = [response.json()["id"] for response in responses]
    fuzz = Fuzz(live.url, {}, each, known={"response_id": names, "model_id": ["tiny"]}, weight=3)
    fuzz.run()
    for label in STREAMING:
        assert fuzz.answered[label] and fuzz.answered[f"{label} stream"], f"{label} was never answered"
    assert requests.get(f"{live.url}/health_generate", timeout=DEADLINE).status_code == 200
    return fuzz


def before_the_demo(server: Server, each: int) -> Fuzz:
    headers = {"Authorization": f"Bearer {ADMIN}"}

    def post(path: str, body: Any) -> Any:
        answer = requests.post(f"{server.url}{path}", json=body, headers=headers, timeout=DEADLINE)
        assert answer.status_code == 200, answer.text
        return answer

    names = [post("/v1/responses", BACKGROUND).json()["id"] for _ in range(8)]
    undo = {
        "/pause_generation": lambda: post("/continue_generation", {}),  # what is asked next would wait for ever
        "/set_internal_state": lambda: post("/set_internal_state", {"server_args": {"max_queued_requests": None}}),
    }
    fuzz = Fuzz(server.url, headers, each, known={"response_id": names, "model_id": ["demo"]}, undo=undo)
    fuzz.run()
    wait_idle(server, headers)
    said = post("/v1/completions", {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}).json()
    assert "Paris" in said["choices"][0]["text"]
    assert server.process.poll() is None
    return fuzz


def wait_idle(server: Server, headers: dict[str, str]) -> None:
    """Nobody runs or waits, and of the KV memory nothing is held. AssertionError where that does not come to be."""
    limit = time.monotonic() + 30
    while True:
        info = requests.get(f"{server.url}/server_info", headers=headers, timeout=DEADLINE).json()
        (stats,) = info["internal_states"][0]["internal_states"]
        sessions = stats["session_tokens"]
        left = {name: stats[name] for name in ("num_running_reqs", "num_queue_reqs", "num_queue_tokens")}
        if not any(left.values()) and stats["num_used_tokens"] <= sessions:
            return
        assert time.monotonic() < limit, stats
        threading.Event().wait(0.05)


def test_bulk(bulk: Live) -> None:
    assert in_bulk(bulk, 12).sent >= 500


def test_sample_of_a_real_server(demo: Server) -> None:
    fuzz = before_the_demo(demo, 3)
    assert fuzz.sent >= 140 and fuzz.statuses[200] >= 50


@pytest.mark.slow
def test_more_in_bulk(bulk: Live) -> None:
    assert in_bulk(bulk, 80).sent >= 5000


@pytest.mark.slow
def test_more_of_a_real_server(demo: Server) -> None:
    assert before_the_demo(demo, 9).sent >= 500


# -- what the checks find --


def lying(doc: RouteDoc, answer: Response) -> Any:
    """A live server with a route that answers otherwise than its doc says."""

    async def endpoint(_: Request) -> Response:
        return answer

    config = ServerConfig(model_path="org/tiny-model", port=0)
    sock = listen(config)
    entry = RouteEntry("/lies", endpoint, ("GET",), "public", doc=doc)
    server = build_server(build_app(server_context(ScriptedEngine(), tiny_text()), [entry]), config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    return server, thread, f"http://127.0.0.1:{sock.getsockname()[1]}"


JSON, EVENTS, LINES = "application/json", "text/event-stream", "application/x-ndjson"


@pytest.mark.parametrize(
    ("promised", "sent", "told"),
    [
        ({JSON: int}, Response("true", media_type=JSON), "not of type"),
        ({JSON: int}, Response("1", 201, media_type=JSON), "Undocumented status code"),
        ({JSON: int}, Response("1", 500, media_type=JSON), "Server error"),
        ({JSON: int}, Response("1", media_type="text/plain"), "Content-Type"),
        ({EVENTS: int}, Response("data: 1\n\ndata: true\n\n", media_type=EVENTS), "Event #1"),
        ({LINES: int}, Response("1\ntrue\n", media_type=LINES), "not of type"),
    ],
)
def test_an_answer_that_is_not_as_documented_is_found(promised: Any, sent: Response, told: str) -> None:
    server, thread, url = lying(RouteDoc(summary="Lies", answers={200: promised}), sent)
    try:
        fuzz = Fuzz(url, {}, 1, only="/lies")
        with pytest.raises(AssertionError, match=f"GET /lies.*(?s:.*){told}"):
            fuzz.run()
        assert fuzz.sent == 1
    finally:
        server.should_exit = True
        thread.join(20)
