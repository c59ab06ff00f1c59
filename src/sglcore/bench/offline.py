"""`sglcore bench offline`: how many tokens a second an engine in this process gives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sglcore.bench.charts import Report, bars, distribution, facts_of
from sglcore.bench.datasets import Ask
from sglcore.bench.options import OfflineOptions
from sglcore.bench.records import object_of
from sglcore.errors import ConfigError

if TYPE_CHECKING:
    from sglcore.offline.engine import Engine

WARM_REQUESTS, WARM_TOKENS = 16, 16
ROWS = (
    ("Backend", "backend"),
    ("Successful requests", "successful_requests"),
    ("Benchmark duration (s)", "total_latency"),
    ("Total input tokens", "total_input_tokens"),
    ("Total generated tokens", "total_output_tokens"),
    ("Last generation throughput (tok/s)", "last_gen_throughput"),
    ("Request throughput (req/s)", "request_throughput"),
    ("Input token throughput (tok/s)", "input_throughput"),
    ("Output token throughput (tok/s)", "output_throughput"),
    ("Total token throughput (tok/s)", "total_throughput"),
)


def measure(engine: Engine, asks: Sequence[Ask], options: OfflineOptions) -> tuple[dict[str, Any], list[float]]:
    """(the figures, seconds each request took), all requests given at once. Raises ConfigError, RequestError."""
    extra = object_of(options.extra_request_body, "--extra-request-body")
    if not options.skip_warmup:
        warm = [replace(a, output_len=min(a.output_len, WARM_TOKENS)) for a in asks[:WARM_REQUESTS]]
        _answers(engine, warm, options, extra)
        engine.flush_cache(timeout=60.0)
    began = time.perf_counter()
    answers = _answers(engine, asks, options, extra)
    elapsed = time.perf_counter() - began
    inputs = sum(ask.prompt_len for ask in asks)
    outputs = sum(int(answer["meta_info"]["completion_tokens"]) for answer in answers)
    record = {
        "backend": options.backend,
        "dataset_name": options.dataset_name,
        "successful_requests": len(answers),
        "total_latency": elapsed,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "last_gen_throughput": _last_rate(engine.get_server_info()),
        "request_throughput": len(answers) / elapsed,
        "input_throughput": inputs / elapsed,
        "output_throughput": outputs / elapsed,
        "total_throughput": (inputs + outputs) / elapsed,
    }
    return record, [float(answer["meta_info"]["e2e_latency"]) for answer in answers]


def report(record: dict[str, Any], latencies: Sequence[float]) -> Report:
    """Facts, rates, and how long requests took."""
    rates = {name: record[f"{name}_throughput"] for name in ("input", "output", "total")}
    charts = [
        bars("Throughput", "tokens/s", rates),
        distribution("Latency of whole requests, all given at once", "s", {"": latencies}),
    ]
    names = ("dataset_name", *(key for _, key in ROWS))
    return Report("sglcore bench offline", facts_of(record, names), charts)


def _answers(engine: Engine, asks: Sequence[Ask], options: OfflineOptions, extra: dict[str, Any]) -> list[Any]:
    sampling = [
        {"temperature": 0.0, "max_new_tokens": ask.output_len, "ignore_eos": not options.disable_ignore_eos, **extra}
        for ask in asks
    ]
    prompts: list[Any] = [ask.prompt for ask in asks]
    answers: list[Any] = engine.generate(prompts, sampling, return_logprob=options.return_logprob)
    if len(answers) != len(asks):
        raise ConfigError("Extra fields gave another number of answers than of requests.", remedy="Leave `n` out.")
    return answers


def _last_rate(info: dict[str, Any]) -> float | None:
    """What the engine measured over its last window of busy time."""
    states = info.get("internal_states") or [{}]
    found = states[0].get("gen_throughput")
    return None if found is None else float(found)
