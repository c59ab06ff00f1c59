"""`sglcore bench one-batch`: the latency of one static batch, prefill and decoding apart, without a server."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from sglcore.bench.charts import Chart, Report, bars, thinned
from sglcore.bench.options import OneBatchOptions
from sglcore.errors import ConfigError, SglcoreError
from sglcore.request import GenerateRequest, RequestOutput, SamplingParams, pack_ids

WARM_TOKENS = 4


class Stepping(Protocol):
    """The part of the engine that is used here."""

    @property
    def has_work(self) -> bool: ...

    def add(self, request: GenerateRequest) -> None: ...

    def step(self) -> list[RequestOutput]: ...

    def flush_cache(self) -> None: ...


def needed(options: OneBatchOptions) -> tuple[int, int, int]:
    """(rows, tokens of the longest row, tokens of the KV cache) that the largest case takes."""
    longest = max(options.input_len) + max(options.output_len)
    return max(options.batch_size), longest, max(options.batch_size) * longest


def check(options: OneBatchOptions, info: dict[str, Any]) -> None:
    """Raises ConfigError where a case could not run as one batch on this engine."""
    rows, longest, tokens = needed(options)
    bounds = (
        (rows, "max_running_requests", "rows", "--max-running-requests"),
        (longest, "context_length", "tokens a row", "--context-length, if the model has more"),
        (tokens, "max_total_num_tokens", "tokens of KV cache", "--max-total-tokens"),
    )
    for wanted, key, what, flag in bounds:
        if wanted > info[key]:
            raise ConfigError(
                f"The largest case takes {wanted} {what}, the engine has {info[key]}.",
                remedy=f"Ask for less, or raise {flag}.",
            )


def measure(
    engine: Stepping, options: OneBatchOptions, vocab: int, tell: Callable[[str], None]
) -> Iterable[tuple[dict[str, Any], list[float]]]:
    """(figures, seconds of each decoding step) of each case, batch by batch, after one that does not count."""
    cases = list(itertools.product(options.batch_size, options.input_len, options.output_len))
    batch, length, _ = cases[0]
    one_case(engine, batch, length, WARM_TOKENS, vocab, options.seed)
    for number, (batch, length, new) in enumerate(cases):
        record, steps = one_case(engine, batch, length, new, vocab, options.seed + number)
        for index in range(options.log_decode_step - 1, len(steps), options.log_decode_step or len(steps) + 1):
            tell(f"  decode {index + 1}: {steps[index] * 1e3:.2f} ms, {batch / steps[index]:.1f} tok/s")
        yield {"run_name": options.run_name, **record}, steps


def one_case(
    engine: Stepping, batch: int, length: int, new: int, vocab: int, seed: int
) -> tuple[dict[str, Any], list[float]]:
    """One batch from its prompts to its last token. Prompts are random, so that no prefix is cached."""
    dice = np.random.default_rng(seed)
    sampling = SamplingParams(max_new_tokens=new, ignore_eos=True, temperature=0.0)
    engine.flush_cache()
    for row in range(batch):
        prompt = pack_ids(dice.integers(0, vocab, length))
        engine.add(GenerateRequest(rid=f"batch-{row}", input_ids=prompt, sampling=sampling))
    began = time.perf_counter()
    first: dict[str, float] = {}
    steps, last, tokens = [], began, 0
    while engine.has_work:
        waiting = len(first) < batch
        outputs = engine.step()
        now = time.perf_counter()
        got = _taken(outputs, first, now)
        tokens += got
        if waiting:
            last = now  # prompts were still being computed: this step is none of decoding
        elif got:
            steps.append(now - last)
            last = now
    if tokens != batch * new:
        raise SglcoreError(f"{tokens} tokens came where {batch * new} were asked for.")
    return _record(batch, length, new, max(first.values()) - began, steps, last - began), steps


def _taken(outputs: list[RequestOutput], first: dict[str, float], now: float) -> int:
    """How many tokens there are in it; notes when each row had its first."""
    count = 0
    for out in outputs:
        if out.finish is not None and out.finish.type not in ("length", "stop"):
            raise SglcoreError(f"A row of the batch failed: {out.finish.message or out.finish.type}")
        if len(out.token_ids):
            first.setdefault(out.rid, now)
            count += len(out.token_ids)
    return count


def _record(batch: int, length: int, new: int, prefill: float, steps: Sequence[float], total: float) -> dict[str, Any]:
    median = statistics.median(steps) if steps else None
    return {
        "batch_size": batch,
        "input_len": length,
        "output_len": new,
        "prefill_latency": prefill,
        "prefill_throughput": batch * length / prefill,
        "median_decode_latency": median,
        "median_decode_throughput": batch / median if median else None,
        "total_latency": total,
        "overall_throughput": batch * (length + new) / total,
    }


def report(results: Sequence[tuple[dict[str, Any], list[float]]]) -> Report:
    """Each case's rates, and its decoding steps one by one."""
    facts, prefill, decode, lines = [], {}, {}, []
    for record, steps in results:
        name = "{batch_size} x {input_len}+{output_len}".format_map(record)
        prefill[name] = record["prefill_throughput"]
        facts.append((name, f"prefill {record['prefill_latency'] * 1e3:.1f} ms, total {record['total_latency']:.2f} s"))
        if steps:
            decode[name] = record["median_decode_throughput"]
            lines.append(thinned(list(range(1, len(steps) + 1)), [s * 1e3 for s in steps], name))
    charts = [bars("Prefill", "tokens/s", prefill)]
    if lines:
        charts += [bars("Decoding (median step)", "tokens/s", decode), Chart("Decoding steps", "step", "ms", lines)]
    return Report("sglcore bench one-batch", facts, charts)
