"""How busy the GPU is while it decodes, and with what: a trace of some steps, its gaps counted.

`python benchmarks/gpu/trace.py --batch 256 --steps 200` prints the share of time in which no kernel ran (kernels inside
replayed graphs are traced one by one) and the kernels by time a step. `--json FILE` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from offline import Runs
from shapes import MODELS, folder
from sizes import common_arguments, flags_of

ON_THE_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
SHOWN = "  {share:6.2%} {count:6} x {mean_us:8.2f} us  {name}"


def traced(runs: Runs, batch: int, steps: int, context: int, path: Path) -> None:
    """Decode `batch` rows and trace the middle of it."""
    engine: Any = runs.engine
    prompts = [runs.prompt(context) for _ in range(batch)]
    sampling = {"max_new_tokens": steps + 400, "temperature": 0, "ignore_eos": True}
    done = threading.Event()

    def ask() -> None:
        engine.generate(input_ids=prompts, sampling_params=sampling)
        done.set()

    before = engine.get_server_info()["internal_states"][0]["steps"]
    thread = threading.Thread(target=ask)
    thread.start()
    prefills = -(-batch * context // 8192)
    while engine.get_server_info()["internal_states"][0]["steps"] < before + prefills + 10:
        time.sleep(0.002)
    start = engine.get_server_info()["internal_states"][0]["steps"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        while engine.get_server_info()["internal_states"][0]["steps"] < start + steps and not done.is_set():
            time.sleep(0.01)
    profile.export_chrome_trace(str(path))
    thread.join()


def traced_prefill(runs: Runs, count: int, length: int, path: Path) -> None:
    """Trace `count` prompts of `length` tokens, one token each."""
    prompts = [runs.prompt(length) for _ in range(count)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        runs.seconds(prompts, 1)
    profile.export_chrome_trace(str(path))


def read(path: Path) -> dict[str, Any]:
    """Busy share and time by kernel, from a chrome trace."""
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("cat") in ON_THE_GPU]
    if not events:
        raise ValueError(f"{path} shows no work of a GPU")
    spans = sorted((e["ts"], e["ts"] + e["dur"], e["name"]) for e in events)
    cut = len(spans) // 20  # the profiler's own start and end are in neither figure
    spans = spans[cut : len(spans) - cut]
    busy, end = 0.0, spans[0][0]
    gaps: dict[str, float] = defaultdict(float)
    longest: list[tuple[float, float, str]] = []
    by_name: dict[str, list[float]] = defaultdict(list)
    for start, stop, name in spans:
        by_name[name].append(stop - start)
        if start > end:
            longest.append((start - end, end - spans[0][0], name[:60]))
            gaps["over 20 us" if start - end > 20 else "over 3 us" if start - end > 3 else "less"] += start - end
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    wall = end - spans[0][0]
    top = sorted(by_name.items(), key=lambda item: -sum(item[1]))
    return {
        "wall_us": wall,
        "idle": 1 - busy / wall,
        "gaps_share": {name: total / wall for name, total in gaps.items()},
        "longest_gaps": [
            {"us": us, "at_us": at, "before": name} for us, at, name in sorted(longest, reverse=True)[:12]
        ],
        "kernels": [
            {"name": name[:90], "share": sum(times) / wall, "count": len(times), "mean_us": sum(times) / len(times)}
            for name, times in top[:24]
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-8b")
    parser.add_argument("--batch", type=int, nargs="+", default=[256])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--prefill", action="store_true", help="trace prompts of --context instead, --batch of them")
    parser.add_argument("--json", type=Path)
    common_arguments(parser)
    asked = parser.parse_args()
    from sglcore import Engine

    flags = flags_of(asked.flags)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = folder(asked.model, Path(scratch), asked.layers)
        common = {"load_format": "dummy", "skip_tokenizer_init": True, "dtype": "bfloat16", "context_length": 8192}
        with Engine(str(path), disable_radix_cache=True, **{**common, **flags}) as engine:
            runs = Runs(engine, MODELS[asked.model]["vocab_size"])
            runs.seconds([runs.prompt(300) for _ in range(8)], 20)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]):
                torch.ones(1, device="cuda")  # its own start takes seconds
            time.sleep(runs.sizes.rest)  # for what is captured while the engine rests
            for batch in asked.batch:
                trace = Path(scratch) / "trace.json"
                if asked.prefill:
                    traced_prefill(runs, batch, asked.context, trace)
                else:
                    traced(runs, batch, asked.steps, asked.context, trace)
                found[batch] = told = read(trace)
                print(f"{asked.model} batch {batch}: idle {told['idle']:.2%} {told['gaps_share']}")
                for kernel in told["kernels"]:
                    print(SHOWN.format(**kernel))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
