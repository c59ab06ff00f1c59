"""What one step costs the host: plan + commit over decoding rows, without a model.

`python benchmarks/cpu/scheduler_cost.py` prints, for page sizes 1 and 16, the median milliseconds of plan + commit
(stop checks, building the outputs and sorting them by client inside), and the ratio to a fixed loop of plain Python
timed beside it, which tells a slow machine from a slow scheduler. `--json FILE` writes the figures.

The load: 256 rows decode; each step 1 % of them finish and as many new prompts arrive. The runner is fake: its tokens
are drawn beforehand, and the time it takes is not counted. The measuring is that of `sglcore bench step`, which puts
load and runner into flags.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sglcore.bench import step
from sglcore.builtin.policies import FirstComeFirstServed
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.rows import RowTable
from sglcore.scheduler import Limits, Scheduler

ROWS, PROMPT, LIFE, VOCAB, CONTEXT = 256, 64, 100, 32000, 512


def make(page_size: int) -> Scheduler:
    table = RowTable(ROWS + 8, CONTEXT, -(-CONTEXT // page_size) + 1, 1)
    ledger = KVLedger([GroupPages((ROWS + 64) * CONTEXT // page_size)], page_size, table)
    return Scheduler(ledger, table, FirstComeFirstServed(), Limits(chunk=2048, vocab_size=VOCAB), (2,))


def measure(page_size: int, steps: int = 400, warm: int = 150) -> dict[str, Any]:
    """Medians over `steps` steps, in milliseconds, and the ratio to the calibration loop."""
    load = step.Load(make(page_size), rows=ROWS, life=LIFE, prompt=PROMPT, vocab=VOCAB, context=CONTEXT)
    times = step.measure(load, load.result, steps, warm)
    return {"page_size": page_size, **step.figures(times, run=False)}


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
