"""Benchmarks against the bundled demo model: real servers, real engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.server import Server, running

from .conftest import Run

SMALL = ("--max-total-tokens", "2048")
RANDOM = ("--dataset-name", "random-ids", "--random-input-len", "24", "--random-output-len", "6")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("demo", "--port", "0", *SMALL) as made:
        yield made


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("backend", "more"),
    [
        ("sglang", ("--tokenize-prompt", "--flush-cache")),
        ("sglang-oai", ("--request-rate", "50")),
        ("sglang-oai-chat", ("--max-concurrency", "2")),
    ],
)
def test_serving(sglcore: Run, server: Server, tmp_path: Path, backend: str, more: tuple[str, ...]) -> None:
    out, plot = tmp_path / "out.jsonl", tmp_path / "run.html"
    files = ("--output-file", str(out), "--plot", str(plot), "--output-details")
    fixed = ("--random-range-ratio", "1", "--num-prompts", "6", "--base-url", server.url)
    done = sglcore("bench", "serving", "--backend", backend, *RANDOM, *fixed, *more, *files)
    assert done.returncode == 0, done.stderr
    assert "Successful requests:                     6" in done.stdout
    (line,) = lines(out)
    assert (line["completed"], line["total_input_tokens"], line["total_output_tokens"]) == (6, 144, 36)
    assert line["output_lens"] == [6] * 6 and line["errors"] == [""] * 6
    assert 0 < line["median_ttft_ms"] <= line["median_e2e_latency_ms"] <= line["duration"] * 1e3
    assert line["server_info"]["model_path"] == "demo"
    assert line["request_rate"] == ("inf" if backend != "sglang-oai" else 50)
    assert line["max_concurrent_requests"] <= (2 if "--max-concurrency" in more else 6)
    assert plot.read_text().count("<svg") == 5


def test_a_run_in_which_all_fail_has_status_1(sglcore: Run, server: Server) -> None:
    wrong = ("--extra-request-body", '{"sampling_params": {"temperature": -1}}', "--warmup-requests", "0")
    done = sglcore("bench", "serving", *RANDOM, "--num-prompts", "3", "--base-url", server.url, *wrong)
    assert done.returncode == 1
    assert "Failed requests:                         3" in done.stdout
    assert "3 requests failed; the first: HTTP 400" in done.stderr and "temperature" in done.stderr


def test_offline(sglcore: Run, tmp_path: Path) -> None:
    out, plot = tmp_path / "out.jsonl", tmp_path / "run.html"
    wanted = ("--num-prompts", "5", "--random-range-ratio", "1", "--result-filename", str(out), "--plot", str(plot))
    done = sglcore("bench", "offline", "demo", *SMALL, *RANDOM, *wanted)
    assert done.returncode == 0, done.stderr
    (line,) = lines(out)
    assert (line["successful_requests"], line["total_input_tokens"], line["total_output_tokens"]) == (5, 120, 30)
    assert line["output_throughput"] == pytest.approx(30 / line["total_latency"])
    assert plot.read_text().count("<svg") == 2


def test_one_batch(sglcore: Run, tmp_path: Path) -> None:
    out, plot = tmp_path / "out.jsonl", tmp_path / "run.html"
    sizes = ("--batch", "1,3", "--input-len", "20", "--output-len", "5")
    done = sglcore(
        "bench", "one-batch", "demo", *SMALL, *sizes, "--output-file", str(out), "--plot", str(plot), "--run-name", "x"
    )
    assert done.returncode == 0, done.stderr
    assert "3 x 20+5" in done.stdout
    both = lines(out)
    assert [(line["batch_size"], line["run_name"]) for line in both] == [(1, "x"), (3, "x")]
    for line in both:
        tokens = line["batch_size"] * 25
        assert line["prefill_latency"] + 4 * line["median_decode_latency"] <= line["total_latency"] * 1.5
        assert line["overall_throughput"] == pytest.approx(tokens / line["total_latency"])
    assert plot.read_text().count("<svg") == 3
    refused = sglcore("bench", "one-batch", "demo", *SMALL, "--batch", "64", "--input-len", "64", "--output-len", "5")
    assert refused.returncode == 2 and "--max-total-tokens" in refused.stderr


def test_startup(sglcore: Run, tmp_path: Path) -> None:
    out, plot = tmp_path / "out.jsonl", tmp_path / "run.html"
    done = sglcore("bench", "startup", "demo", *SMALL, "--rounds", "1", "--output-file", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    found = lines(out)
    assert [line["start"] for line in found] == ["cold", "warm"]
    for line in found:
        assert 0 < line["ready"] < line["first_token"]
        assert {"load weights", "outside phases"} <= line["phases"].keys()
        assert sum(line["phases"].values()) <= line["ready"] * 1.001
    assert plot.read_text().count("<svg") == 2
