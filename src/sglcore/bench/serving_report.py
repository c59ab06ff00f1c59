"""The report of a benchmark of a server: how times are spread, and how the run went."""

from __future__ import annotations

from collections.abc import Sequence

from sglcore.bench.charts import Chart, Report, Series, distribution, facts_of, thinned
from sglcore.bench.metrics import open_requests, tokens_by_second
from sglcore.bench.serving import Run

FACTS = (
    "backend",
    "dataset_name",
    "num_prompts",
    "request_rate",
    "max_concurrency",
    "completed",
    "failed",
    "duration",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "output_throughput",
    "total_throughput",
    "median_ttft_ms",
    "p99_ttft_ms",
    "median_tpot_ms",
    "median_itl_ms",
    "p99_itl_ms",
    "concurrency",
)


def report(run: Run) -> Report:
    """Facts, distributions of TTFT, inter-token latency and latency, and the run second by second."""
    done = [o for o in run.outcomes if o.success]
    tokens = tokens_by_second(done)
    times, requests = open_requests(done)
    charts = [
        distribution("Time to first token", "ms", {"": ms([o.ttft for o in done])}),
        distribution("Inter-token latency", "ms", {"": ms([gap for o in done for gap in o.itl])}),
        distribution("Latency of whole requests", "s", {"": [o.latency for o in done]}),
        over_time("Output tokens a second", "tokens", list(range(len(tokens))), tokens.tolist()),
        over_time("Requests open", "requests", times.tolist(), requests.tolist()),
    ]
    return Report("sglcore bench serving", facts_of(run.record, FACTS), [c for c in charts if c.series])


def ms(seconds: Sequence[float]) -> list[float]:
    """In milliseconds."""
    return [value * 1e3 for value in seconds]


def over_time(title: str, unit: str, seconds: Sequence[float], values: Sequence[float]) -> Chart:
    """A value along a run."""
    line: list[Series] = [thinned(seconds, values, "")] if len(values) else []
    return Chart(title, "s", unit, line)
