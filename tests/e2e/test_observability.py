"""Spans, dumps, run-time logging and replay, on a real server with two API workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.server import Server, running
from server.otlp import Collector, attributes

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BODY = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
PATIENCE = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("observed")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(folder: Path, collector: Collector) -> Iterator[Server]:
    flags = ["--port", "0", "--api-workers", "2", "--max-total-tokens", "2048", "--admin-api-key", "boss-key"]
    flags += ["--enable-trace", "--otlp-traces-endpoint", collector.address]
    flags += ["--dump-requests-folder", str(folder / "dump"), "--crash-dump-folder", str(folder / "crash")]
    flags += [
        "--log-requests-target",
        str(folder / "log"),
        "--log-requests-format",
        "json",
        "--log-requests-level",
        "0",
    ]
    with running("demo", *flags) as server:
        yield server


def post(server: Server, path: str, body: Any, **headers: str) -> httpx.Response:
    """On a connection of its own, so that any worker may take it."""
    answer = httpx.post(server.url + path, json=body, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)  # between two looks at what another process writes, within the limit above


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for file in sorted(folder.glob("*")) for line in file.read_text().splitlines()]


def asked_of_both(server: Server) -> set[int]:
    """Completions until each worker has answered something; returns their indexes."""
    seen: set[int] = set()
    for _ in range(100):
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:  # keep-alive: both go to the same worker
            assert client.post("/v1/completions", json=BODY).status_code == 200
            seen.add(client.get("/server_info").json()["api_worker"])
        if len(seen) == 2:
            break
    return seen


def test_spans_of_a_request_reach_the_collector(server: Server, collector: Collector) -> None:
    answer = post(server, "/v1/completions", BODY, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
    until(lambda: sum(span.trace_id.hex() == TRACE for span in collector.spans) >= 5)
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    assert set(spans) == {"POST /v1/completions", "generate", "queue", "prefill", "decode"}
    assert attributes(spans["generate"])["gen_ai.usage.output_tokens"] == 4
    whole = spans["generate"].end_time_unix_nano - spans["generate"].start_time_unix_nano
    stages = [
        spans[name].end_time_unix_nano - spans[name].start_time_unix_nano for name in ("queue", "prefill", "decode")
    ]
    assert all(stage >= 0 for stage in stages) and 0 < sum(stages) <= whole + 1_000_000
    assert stages[1] > 0 and stages[2] > 0


def test_logging_is_changed_in_all_workers(server: Server, folder: Path) -> None:
    admin = {"Authorization": "Bearer boss-key"}
    assert lines(folder / "log") == []
    post(server, "/configure_logging", {"log_requests": True, "dump_requests_folder": "second"}, **admin)
    assert asked_of_both(server) == {0, 1}
    until(lambda: len({file.name for file in (folder / "log").glob("*")}) == 2)
    post(server, "/configure_logging", {"log_requests": False, "dump_requests_folder": ""}, **admin)
    told = len(lines(folder / "log"))
    asked_of_both(server)
    until(lambda: len(lines(folder / "log")) % 2 == 0)
    assert len(lines(folder / "log")) - told in (0, 1), "no more than a line that was on its way"
    assert "Once upon" not in json.dumps(lines(folder / "log"))


def test_what_was_dumped_is_sent_again(server: Server, folder: Path) -> None:
    dumped = lines(folder / "dump" / "second")
    assert len(dumped) >= 2 and all(one["answers"][0]["completion_tokens"] == 4 for one in dumped)
    command = [sys.executable, "-m", "sglcore", "replay", "--input-folder", str(folder / "dump" / "second")]
    command += ["--base-url", server.url, "--parallel", "2", "--speed", "inf", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["requests"] == report["succeeded"] == len(dumped) and report["errors"] == {}
    assert report["mean_latency"] > 0 and report["mean_recorded_latency"] > 0


def test_replay_says_what_is_wrong(folder: Path) -> None:
    def replay(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "sglcore", "replay", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        return done.returncode, done.stderr

    file = str(next((folder / "dump" / "second").glob("*")))
    assert replay()[0] == 2 and replay("--input-file", file, "--input-folder", "x")[0] == 2
    assert replay("--input-file", file, "--speed", "0")[0] == 2
    status, told = replay("--input-file", file, "--base-url", "http://127.0.0.1:9", "--speed", "inf")
    assert status == 1 and "times:" in told


def test_the_last_requests_are_written_when_the_engine_dies(server: Server, folder: Path) -> None:
    server.engine().send_signal(signal.SIGKILL)
    until(lambda: len(list((folder / "crash").glob("*"))) == 2)
    until(lambda: httpx.get(server.url + "/readyz").status_code == 200)
    post(server, "/v1/completions", BODY)
    dumped = lines(folder / "crash")
    assert len(dumped) >= 4 and {one["path"] for one in dumped} == {"/v1/completions"}
    assert "boss-key" not in json.dumps(dumped)
