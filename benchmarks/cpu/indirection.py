"""What the plugin machinery costs per step: an engine wired through registries and hooks against direct wiring.

    .venv/bin/python benchmarks/cpu/indirection.py

A takes its policy from the registry and tells its observers through hooks; B is handed the policy's class and has
no observers. Both run the same requests through the same loop over a runner without a model, in turns; what is
compared is the time of a block of steps, pair by pair.
"""

from __future__ import annotations

import datetime
import gc
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from engine.fakes import InlineExecutor  # noqa: E402
from scheduler.fake import build  # noqa: E402
from sglcore.builtin.policies import FirstComeFirstServed  # noqa: E402
from sglcore.engine.engine import Engine  # noqa: E402
from sglcore.engine.link import InlinePort  # noqa: E402
from sglcore.engine.loop import EngineLoop  # noqa: E402
from sglcore.engine.messages import Submit  # noqa: E402
from sglcore.plugins import discover  # noqa: E402
from sglcore.request import GenerateRequest, SamplingParams, pack_ids  # noqa: E402

ROWS, STEPS, PAIRS = 4, 100, 300


def wired(hooks: Any, policy: Any, overlap: bool) -> EngineLoop:
    """A loop around a fake runner whose requests never end within a block."""
    scheduler, runner = build(rows=ROWS, context=8192, pages=ROWS * 8192 // 16, page_size=16, policy=policy)
    return EngineLoop(Engine(scheduler, InlineExecutor(runner), overlap=overlap), InlinePort(), hooks, {})


def block(loop: EngineLoop, number: int) -> float:
    """Processor seconds of `STEPS` steps of `ROWS` decoding requests, their prompts computed before."""
    port: Any = loop.port
    for row in range(ROWS):
        sampling = SamplingParams(max_new_tokens=STEPS + 40, ignore_eos=True)
        port.inbox.append(
            Submit(GenerateRequest(rid=f"{number}-{row}", input_ids=pack_ids([row + 1] * 8), sampling=sampling))
        )
    for _ in range(20):
        loop.turn(block=False)
    gc.collect()
    start = time.process_time()
    for _ in range(STEPS):
        loop.turn(block=False)
    seconds = time.process_time() - start
    while loop.engine.has_work:
        loop.turn(block=False)
    port.outbox.clear()
    loop.engine.flush_cache()
    loop.engine.executor.events.clear()  # type: ignore[attr-defined]
    return seconds


def no_hooks() -> Any:
    """What hooks look like where nobody implements any, without pluggy."""
    silent = SimpleNamespace(get_hookimpls=list)
    return SimpleNamespace(on_step=silent, on_request_finished=silent, admit_request=silent)


def upper_bound(ratios: list[float]) -> float:
    """The upper end of the one-sided 95 % interval of the median, by order statistics (binomial)."""
    ordered, count = sorted(ratios), len(ratios)
    from math import comb

    total = 0.0
    for rank in range(count):
        total += comb(count, rank) / 2**count
        if total >= 0.95:
            return ordered[min(rank + 1, count - 1)]
    return ordered[-1]


def measure(pairs: int = PAIRS, overlap: bool = True) -> dict[str, float]:
    """Median of A / B - 1 over pairs, its upper bound, and microseconds a step of each."""
    plugins = discover("none")
    through = wired(plugins.hooks, plugins.registry("policies").factory("fcfs")(), overlap)
    direct = wired(no_hooks(), FirstComeFirstServed(), overlap)
    for loop in (through, direct):
        block(loop, -1)
    ratios, a_times, b_times = [], [], []
    for number in range(pairs):
        order = (through, direct) if number % 2 else (direct, through)
        seconds = {id(loop): block(loop, number) for loop in order}
        a, b = seconds[id(through)], seconds[id(direct)]
        ratios.append(a / b - 1)
        a_times.append(a)
        b_times.append(b)
    return {
        "pairs": pairs,
        "median": statistics.median(ratios),
        "upper_95": upper_bound(ratios),
        "through_us": statistics.median(a_times) / STEPS * 1e6,
        "direct_us": statistics.median(b_times) / STEPS * 1e6,
    }


def main() -> None:
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "plain": measure(overlap=False),
        "overlapped": measure(overlap=True),
    }
    (HERE / "indirection.json").write_text(json.dumps(result, indent=2) + "\n")
    for mode in ("plain", "overlapped"):
        r = result[mode]
        print(
            f"{mode}: through plugins {r['through_us']:.0f} us a step, direct {r['direct_us']:.0f} us; "
            f"median {r['median']:+.2%}, upper 95 % bound {r['upper_95']:+.2%} over {r['pairs']} pairs"
        )


if __name__ == "__main__":
    main()
