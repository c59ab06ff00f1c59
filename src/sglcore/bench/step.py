"""What one step costs the host: plan, runner and commit over decoding rows, without a model.

The load: so many rows decode; each step some of them finish and as many new prompts arrive. Beside the times stands
their ratio to a fixed loop of plain Python, which tells a slow machine from a slow scheduler.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sglcore.batch import Batch, StepResult
from sglcore.bench.charts import Report, distribution, facts_of
from sglcore.request import GenerateRequest, RequestOutput, SamplingParams, pack_ids

CALIBRATION = 5_000
LOOP_EVERY = 4  # steps between two looks at how fast the machine is
STAGES = ("plan", "run", "commit")


class Planner(Protocol):
    """The part of the scheduler that is used here."""

    def add(self, request: GenerateRequest) -> None: ...

    def plan(self) -> Batch: ...

    def commit(self, batch: Batch, result: StepResult) -> list[RequestOutput]: ...


class Load:
    """Keeps `rows` requests alive: as many arrive as have finished, `burst` at a time; lives end evenly spread.

    life: tokens of an answer. vocab: ids of prompts are below it.
    """

    def __init__(
        self, scheduler: Planner, *, rows: int, life: int, prompt: int, vocab: int, context: int, burst: int = 1
    ) -> None:
        self.scheduler = scheduler
        self.rows = rows
        self.made = 0
        self._life, self._prompt, self._vocab, self._burst = life, prompt, vocab, burst
        self._longest = context - prompt - 1
        self._missing = 0
        self._dice = np.random.default_rng(0)

    def arrive(self, count: int) -> None:
        """So many have finished: send as many new ones, as far as whole bursts are due."""
        self._missing += count
        while self._missing >= self._burst:
            for _ in range(self._burst):
                self._send()
            self._missing -= self._burst

    def _send(self) -> None:
        spread = 1 + self.made * self._life // self.rows if self.made < self.rows else self._life
        prompt = pack_ids(self._dice.integers(3, self._vocab, self._prompt))
        sampling = SamplingParams(max_new_tokens=min(spread, self._longest), ignore_eos=True, temperature=0.0)
        self.scheduler.add(GenerateRequest(rid=f"request-{self.made}", input_ids=prompt, sampling=sampling))
        self.made += 1

    def result(self, batch: Batch) -> StepResult:
        """Made-up tokens for a step, where there is no runner."""
        tokens = self._dice.integers(3, self._vocab, (len(batch.rows), 1)).astype(np.int32)
        return StepResult(tokens, batch.samples.astype(np.int32), np.ones(len(batch.rows), dtype=bool))


@dataclass
class Times:
    """Seconds of each step measured, by stage, and what there was in it."""

    plan: list[float] = field(default_factory=list)
    run: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    finished: int = 0

    def total(self, *, run: bool) -> np.ndarray:
        """Of each step, with what the runner took or without."""
        both = np.asarray(self.plan) + np.asarray(self.commit)
        return both + np.asarray(self.run) if run else both


def calibration() -> float:
    """Seconds of a fixed loop over plain Python objects."""
    start = time.perf_counter()
    total, seen = 0, {}
    for i in range(CALIBRATION):
        seen[i & 255] = (i, total)
        total += len(seen) ^ i
    return time.perf_counter() - start


def delivery(outputs: list[RequestOutput], owner: dict[str, bytes]) -> dict[bytes, list[RequestOutput]]:
    """As the engine's loop sorts one step's outputs by client."""
    by_client: dict[bytes, list[RequestOutput]] = defaultdict(list)
    for out in outputs:
        by_client[owner.get(out.rid, b"")].append(out)
    return by_client


def measure(load: Load, run: Callable[[Batch], StepResult], steps: int, warm: int) -> Times:
    """Drive `steps` steps after `warm` ones. `run` gives each step's result; what it takes is told apart."""
    scheduler, times = load.scheduler, Times()
    for _ in range(load.rows):
        load.arrive(1)
    gc.collect()
    for step in range(warm + steps):
        start = time.perf_counter()
        batch = scheduler.plan()
        planned = time.perf_counter()
        result = run(batch)
        landed = time.perf_counter()
        outputs = scheduler.commit(batch, result)
        delivery(outputs, {})
        done = time.perf_counter()
        finished = sum(out.finish is not None for out in outputs)
        load.arrive(finished)
        if step < warm:
            continue
        times.plan.append(planned - start)
        times.run.append(landed - planned)
        times.commit.append(done - landed)
        times.finished += finished
        times.rows.append(len(batch.rows))
        if step % LOOP_EVERY == 0:
            times.loop.append(calibration())
    return times


def figures(times: Times, *, run: bool) -> dict[str, Any]:
    """Medians in milliseconds, and the ratio of a step to the fixed loop. run: the runner's time counts."""
    total, loop = times.total(run=run), statistics.median(times.loop)
    found: dict[str, Any] = {
        "rows": statistics.median(times.rows),
        "finished_per_step": times.finished / len(times.rows),
        "plan_ms": statistics.median(times.plan) * 1e3,
        "commit_ms": statistics.median(times.commit) * 1e3,
    }
    if run:
        found["run_ms"] = statistics.median(times.run) * 1e3
    return found | {
        "total_ms": float(np.median(total)) * 1e3,
        "p90_ms": float(np.quantile(total, 0.9)) * 1e3,
        "calibration_ms": loop * 1e3,
        "ratio": float(np.median(total)) / loop,
    }


def report(record: dict[str, Any], times: Times, *, run: bool) -> Report:
    """How each stage's times are spread."""
    stages: dict[str, Sequence[float]] = {
        name: [t * 1e3 for t in getattr(times, name)] for name in STAGES if run or name != "run"
    }
    return Report(
        "sglcore bench step", facts_of(record, list(record)), [distribution("Time of a step's stages", "ms", stages)]
    )
