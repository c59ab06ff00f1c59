"""One static batch: what counts as prefill, and what as decoding."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sglcore.bench.one_batch import check, measure, needed, one_case, report
from sglcore.bench.options import OneBatchOptions
from sglcore.errors import ConfigError, SglcoreError
from sglcore.request import FinishReason, GenerateRequest, RequestOutput

OPTIONS = OneBatchOptions(batch_size=(1, 3), input_len=(5,), output_len=(4, 1))
INFO = {"max_running_requests": 3, "context_length": 9, "max_total_num_tokens": 27}


class Scripted:
    """Seats one prompt a step; each seated row gets a token a step. `now` is its clock: prefill 10 s, decoding 1 s."""

    def __init__(self, finish: str = "length") -> None:
        self.now = 0.0
        self.flushed = 0
        self.prompts: list[bytes] = []
        self._waiting: list[GenerateRequest] = []
        self._running: dict[str, list[int]] = {}
        self._finish = finish

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, request: GenerateRequest) -> None:
        self._waiting.append(request)
        self.prompts.append(request.input_ids)

    def step(self) -> list[RequestOutput]:
        if self._waiting:
            self.now += 10
            request = self._waiting.pop(0)
            self._running[request.rid] = [request.sampling.max_new_tokens]
        else:
            self.now += 1
        outputs = []
        for rid, left in list(self._running.items()):
            left[0] -= 1
            outputs.append(RequestOutput(rid, 0, [7], finish=None if left[0] else FinishReason(self._finish)))  # type: ignore[arg-type]
            if not left[0]:
                del self._running[rid]
        return outputs

    def flush_cache(self) -> None:
        self.flushed += 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    made = Scripted()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


def test_prefill_lasts_until_every_row_has_a_token(engine: Scripted) -> None:
    record, steps = one_case(engine, 2, 5, 4, 100, seed=1)
    assert record["prefill_latency"] == 20 and record["prefill_throughput"] == 0.5
    assert steps == [1, 1, 1]  # the row seated first was done a step earlier
    assert record["median_decode_latency"] == 1 and record["median_decode_throughput"] == 2
    assert record["total_latency"] == 23 and record["overall_throughput"] == pytest.approx(18 / 23)


def test_an_answer_of_one_token_has_no_decoding(engine: Scripted) -> None:
    record, steps = one_case(engine, 1, 5, 1, 100, seed=1)
    assert steps == [] and record["median_decode_latency"] is None and record["total_latency"] == 10


def test_every_case_is_run_with_prompts_of_its_own(engine: Scripted) -> None:
    told: list[str] = []
    options = OneBatchOptions(batch_size=(1, 3), input_len=(5,), output_len=(4, 1), log_decode_step=2, run_name="r")
    results = list(measure(engine, options, 100, told.append))
    cases = [(r["batch_size"], r["input_len"], r["output_len"], r["run_name"]) for r, _ in results]
    assert cases == [(1, 5, 4, "r"), (1, 5, 1, "r"), (3, 5, 4, "r"), (3, 5, 1, "r")]
    assert told[0] == "  decode 2: 1000.00 ms, 1.0 tok/s"
    assert engine.flushed == 5  # once for the one that does not count
    assert len(set(engine.prompts[1:])) == len(engine.prompts[1:])
    assert [len(chart.series) for chart in report(results).charts] == [1, 1, 2]


def test_a_row_that_fails_is_no_result(engine: Scripted) -> None:
    engine._finish = "abort"
    with pytest.raises(SglcoreError, match="failed: abort"):
        one_case(engine, 1, 5, 2, 100, seed=1)


def test_what_does_not_fit_is_refused() -> None:
    assert needed(OPTIONS) == (3, 9, 27)
    check(OPTIONS, INFO)
    for key, flag in {
        "max_running_requests": "--max-running-requests",
        "context_length": "--context-length",
        "max_total_num_tokens": "--max-total-tokens",
    }.items():
        short: dict[str, Any] = INFO | {key: INFO[key] - 1}
        with pytest.raises(ConfigError, match=flag):
            check(OPTIONS, short)
