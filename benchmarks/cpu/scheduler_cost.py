"""What one step costs the host: plan + commit over decoding rows, without a model.

`python benchmarks/cpu/scheduler_cost.py` prints, for page sizes 1 and 16, the median milliseconds of plan + commit
(stop checks, building the outputs and sorting them by client inside), and the ratio to a fixed loop of plain Python
timed beside it, which tells a slow machine from a slow scheduler. `--json FILE` writes the figures.

The load: 256 rows decode; each step 1 % of them finish and as many new prompts arrive. The runner is fake: its tokens
are drawn beforehand, and the time it takes is not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from sglcore.batch import Batch, StepResult
from sglcore.builtin.policies import FirstComeFirstServed
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.rows import RowTable
from sglcore.request import GenerateRequest, RequestOutput, SamplingParams, pack_ids
from sglcore.scheduler import Limits, Scheduler

ROWS, PROMPT, LIFE, VOCAB, CONTEXT = 256, 64, 100, 32000, 512
CALIBRATION = 5_000


def calibration() -> float:
    """Seconds of a fixed loop over plain Python objects."""
    start = time.perf_counter()
    total, seen = 0, {}
    for i in range(CALIBRATION):
        seen[i & 255] = (i, total)
        total += len(seen) ^ i
    return time.perf_counter() - start


def make(page_size: int) -> Scheduler:
    table = RowTable(ROWS + 8, CONTEXT, -(-CONTEXT // page_size) + 1, 1)
    ledger = KVLedger([GroupPages((ROWS + 64) * CONTEXT // page_size)], page_size, table)
    return Scheduler(ledger, table, FirstComeFirstServed(), Limits(chunk=2048, vocab_size=VOCAB), (2,))


class Load:
    """Keeps ROWS requests alive: as many arrive as have finished; lives end evenly spread."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.made = 0
        self._dice = np.random.default_rng(0)

    def arrive(self, count: int) -> None:
        for _ in range(count):
            spread = 1 + self.made * LIFE // ROWS if self.made < ROWS else LIFE
            prompt = pack_ids(self._dice.integers(3, VOCAB, PROMPT))
            sampling = SamplingParams(max_new_tokens=spread)
            self.scheduler.add(GenerateRequest(rid=f"request-{self.made}", input_ids=prompt, sampling=sampling))
            self.made += 1

    def result(self, batch: Batch) -> StepResult:
        tokens = self._dice.integers(3, VOCAB, (len(batch.rows), 1)).astype(np.int32)
        return StepResult(tokens, batch.samples.astype(np.int32), np.ones(len(batch.rows), dtype=bool))


def delivery(outputs: list[RequestOutput], owner: dict[str, bytes]) -> dict[bytes, list[RequestOutput]]:
    """As the engine's loop sorts one step's outputs by client."""
    by_client: dict[bytes, list[RequestOutput]] = defaultdict(list)
    for out in outputs:
        by_client[owner.get(out.rid, b"")].append(out)
    return by_client


def measure(page_size: int, steps: int = 400, warm: int = 150) -> dict[str, Any]:
    """Medians over `steps` steps, in milliseconds, and the ratio to the calibration loop."""
    scheduler = make(page_size)
    load = Load(scheduler)
    load.arrive(ROWS)
    plans, commits, loops, ended, running = [], [], [], 0, []
    gc.collect()
    for step in range(warm + steps):
        start = time.perf_counter()
        batch = scheduler.plan()
        planned = time.perf_counter()
        result = load.result(batch)
        landed = time.perf_counter()
        outputs = scheduler.commit(batch, result)
        delivery(outputs, {})
        done = time.perf_counter()
        finished = sum(out.finish is not None for out in outputs)
        load.arrive(finished)
        if step >= warm:
            plans.append(planned - start)
            commits.append(done - landed)
            ended += finished
            running.append(len(batch.rows))
            if step % 4 == 0:
                loops.append(calibration())
    total = statistics.median(p + c for p, c in zip(plans, commits, strict=True))
    return {
        "page_size": page_size,
        "rows": statistics.median(running),
        "finished_per_step": ended / steps,
        "plan_ms": statistics.median(plans) * 1e3,
        "commit_ms": statistics.median(commits) * 1e3,
        "total_ms": total * 1e3,
        "p90_ms": float(np.quantile(np.array(plans) + np.array(commits), 0.9)) * 1e3,
        "calibration_ms": statistics.median(loops) * 1e3,
        "ratio": total / statistics.median(loops),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args()
    figures = [measure(page_size, asked.steps) for page_size in (1, 16)]
    for line in figures:
        print(" ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
