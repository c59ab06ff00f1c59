"""From the times of each request to the figures of a run, under the names of SGLang's bench_serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Outcome:
    """What became of one request. Times in seconds.

    start: on the run's clock. latency: from sending it to the end of the answer. ttft: to its first token. itl: between
    one token and the next; those of one chunk share its time evenly. error: why it failed, empty if it did not.
    """

    prompt_len: int
    output_len: int = 0
    start: float = 0.0
    latency: float = 0.0
    ttft: float = 0.0
    itl: list[float] = field(default_factory=list)
    text: str = ""
    error: str = ""

    @property
    def success(self) -> bool:
        """Whether a whole answer came."""
        return not self.error

    @property
    def tpot(self) -> float | None:
        """Seconds a token after the first; None for an answer of one."""
        return (self.latency - self.ttft) / (self.output_len - 1) if self.output_len > 1 else None


def metrics(outcomes: Sequence[Outcome], duration: float, retokenized: int | None = None) -> dict[str, Any]:
    """The figures, times in milliseconds, rates a second, over the requests that succeeded.

    retokenized: tokens of all answers, counted anew from their text.
    """
    done = [o for o in outcomes if o.success]
    inputs, outputs = sum(o.prompt_len for o in done), sum(o.output_len for o in done)
    latencies, gaps = [o.latency for o in done], [gap for o in done for gap in o.itl]
    per_second = 1 / duration if duration > 0 else 0.0
    return {
        "duration": duration,
        "completed": len(done),
        "failed": len(outcomes) - len(done),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(done) * per_second,
        "input_throughput": inputs * per_second,
        "output_throughput": outputs * per_second,
        "total_throughput": (inputs + outputs) * per_second,
        **_retokenized(inputs, retokenized, per_second),
        **spread("e2e_latency", latencies, (90, 99)),
        **spread("ttft", [o.ttft for o in done], (99,)),
        **spread("tpot", [o.tpot for o in done if o.tpot is not None], (99,)),
        **spread("itl", gaps, (95, 99)),
        "max_itl_ms": max(gaps, default=0.0) * 1e3,
        "concurrency": sum(latencies) * per_second,
        **peaks(done),
    }


def _retokenized(inputs: int, outputs: int | None, per_second: float) -> dict[str, Any]:
    return {
        "total_output_tokens_retokenized": outputs,
        "output_throughput_retokenized": None if outputs is None else outputs * per_second,
        "total_throughput_retokenized": None if outputs is None else (inputs + outputs) * per_second,
    }


def spread(name: str, seconds: Sequence[float], percentiles: Sequence[int]) -> dict[str, float]:
    """Mean, median, standard deviation and percentiles in milliseconds; 0 of nothing."""
    values = np.asarray(seconds if len(seconds) else [0.0]) * 1e3
    found = {"mean": values.mean(), "median": np.median(values), "std": values.std()}
    found |= {f"p{p}": np.percentile(values, p) for p in percentiles}
    return {f"{kind}_{name}_ms": float(value) for kind, value in found.items()}


def peaks(done: Sequence[Outcome]) -> dict[str, float]:
    """The busiest second of the run, by tokens; and the most requests that were open at once."""
    return {
        "max_output_tokens_per_s": float(tokens_by_second(done).max(initial=0)),
        "max_concurrent_requests": int(open_requests(done)[1].max(initial=0)),
    }


def tokens_by_second(done: Sequence[Outcome]) -> np.ndarray:
    """Output tokens in each second since the first request was sent."""
    if not done:
        return np.zeros(0)
    first = min(o.start for o in done)
    times = [o.start - first + o.ttft + np.concatenate(([0.0], np.cumsum(o.itl))) for o in done]
    # A chunk without its own count stands for as many tokens as the answer has per chunk.
    weights = [np.full(len(t), o.output_len / len(t)) for t, o in zip(times, done, strict=True)]
    return np.bincount(np.concatenate(times).astype(int), weights=np.concatenate(weights))


def open_requests(done: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """(seconds since the first request was sent, requests open from then on), at each start and end."""
    if not done:
        return np.zeros(0), np.zeros(0)
    starts = np.array([o.start for o in done])
    times = np.concatenate((starts, starts + [o.latency for o in done])) - starts.min()
    changes = np.concatenate((np.ones(len(done)), -np.ones(len(done))))
    order = np.lexsort((changes, times))  # of one moment, ends go first
    return times[order], np.cumsum(changes[order])


SERVING_ROWS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "",
        (
            ("Successful requests", "completed"),
            ("Failed requests", "failed"),
            ("Benchmark duration (s)", "duration"),
            ("Total input tokens", "total_input_tokens"),
            ("Total generated tokens", "total_output_tokens"),
            ("Total generated tokens (retokenized)", "total_output_tokens_retokenized"),
            ("Request throughput (req/s)", "request_throughput"),
            ("Input token throughput (tok/s)", "input_throughput"),
            ("Output token throughput (tok/s)", "output_throughput"),
            ("Peak output token throughput (tok/s)", "max_output_tokens_per_s"),
            ("Peak concurrent requests", "max_concurrent_requests"),
            ("Total token throughput (tok/s)", "total_throughput"),
            ("Concurrency", "concurrency"),
        ),
    ),
    *(
        (title, tuple((f"{label} {short} (ms)", f"{kind}_{name}_ms") for label, kind in kinds))
        for title, short, name, kinds in (
            (
                "End-to-End Latency",
                "E2E Latency",
                "e2e_latency",
                (("Mean", "mean"), ("Median", "median"), ("P90", "p90"), ("P99", "p99")),
            ),
            ("Time to First Token", "TTFT", "ttft", (("Mean", "mean"), ("Median", "median"), ("P99", "p99"))),
            (
                "Time per Output Token (excl. 1st token)",
                "TPOT",
                "tpot",
                (("Mean", "mean"), ("Median", "median"), ("P99", "p99")),
            ),
            (
                "Inter-Token Latency",
                "ITL",
                "itl",
                (("Mean", "mean"), ("Median", "median"), ("P95", "p95"), ("P99", "p99"), ("Max", "max")),
            ),
        )
    ),
)
