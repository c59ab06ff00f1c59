"""The host's cost of a step: the load is what was asked for, the runner is the real one."""

from __future__ import annotations

import numpy as np
import pytest

from sglcore.batch import Batch, StepResult
from sglcore.bench import stand_in, step
from sglcore.bench.options import StepOptions
from sglcore.errors import PluginError
from sglcore.plugins import discover
from sglcore.request import FinishReason, GenerateRequest, RequestOutput


class Planner:
    """A scheduler that seats everybody at once and gives each row a token a step."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.seen: list[GenerateRequest] = []
        self.arrived: list[int] = []  # before each plan
        self._told = 0

    def add(self, request: GenerateRequest) -> None:
        self.rows[request.rid] = request.sampling.max_new_tokens
        self.seen.append(request)

    def plan(self) -> Batch:
        class Planned:
            rows = list(self.rows)

        self.arrived.append(len(self.seen) - self._told)
        self._told = len(self.seen)
        return Planned()  # type: ignore[return-value]

    def commit(self, batch: Batch, result: StepResult) -> list[RequestOutput]:
        outputs = []
        for rid in list(self.rows):
            self.rows[rid] -= 1
            ended = not self.rows[rid]
            outputs.append(RequestOutput(rid, 0, [1], finish=FinishReason("length") if ended else None))
            if ended:
                del self.rows[rid]
        return outputs


def measured(rows: int = 20, life: int = 10, burst: int = 1, steps: int = 40) -> tuple[Planner, step.Times]:
    planner = Planner()
    load = step.Load(planner, rows=rows, life=life, prompt=4, vocab=50, context=99, burst=burst)
    return planner, step.measure(load, lambda batch: StepResult(*[np.zeros(0)] * 3), steps, warm=20)


def test_rows_end_evenly_and_are_replaced() -> None:
    planner, times = measured()
    figures = step.figures(times, run=False)
    assert figures["rows"] == 20 and figures["finished_per_step"] == pytest.approx(2, abs=0.2)
    assert set(times.rows) == {20}
    assert {len(r.token_ids()) for r in planner.seen} == {4}


def test_arrivals_come_in_bursts() -> None:
    planner, _ = measured(burst=5)
    assert set(planner.arrived) == {0, 5, 20}  # 20 to begin with


def test_figures_are_those_of_the_times() -> None:
    times = step.Times([0.001] * 4, [0.01] * 4, [0.002] * 4, [0.004], [3] * 4, 8)
    found = step.figures(times, run=False)
    assert found["plan_ms"] == pytest.approx(1) and found["commit_ms"] == pytest.approx(2)
    assert found["total_ms"] == pytest.approx(3) and found["ratio"] == pytest.approx(0.75)
    assert "run_ms" not in found and found["finished_per_step"] == 2
    assert step.figures(times, run=True)["total_ms"] == pytest.approx(13)
    assert [s.name for s in step.report(found, times, run=False).charts[0].series] == ["plan", "commit"]


def test_the_stand_in_runs_through_the_real_runner() -> None:
    options = StepOptions(rows=6, prompt_len=5, vocab_size=32, arrivals=2)
    built = stand_in.build(options, life=4, plugins=discover("none"))
    scheduler = built.engine.scheduler
    load = step.Load(scheduler, rows=6, life=4, prompt=5, vocab=32, context=stand_in.context_of(options, 4), burst=2)
    try:
        times = step.measure(load, lambda batch: stand_in.run_with(built, batch), steps=20, warm=5)
    finally:
        built.engine.close()
    assert max(times.rows) == 6 and times.finished >= 20
    assert min(times.run) > 0
    assert scheduler.counts["prompt_tokens"] >= 5 * load.made - 5 * 6  # nearly all that were made were computed


def test_a_platform_there_is_not() -> None:
    with pytest.raises(PluginError, match="abacus"):
        stand_in.build(StepOptions(device="abacus"), life=4, plugins=discover("none"))
