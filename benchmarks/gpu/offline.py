"""What the offline engine reaches on this GPU: decode steps, prefill, throughput, shared prefixes.

`python benchmarks/gpu/offline.py --model llama-8b` prints a line a measurement and writes JSON with `--json FILE`.
Weights are random (what counts is their shape), prompts are random token ids, sampling is greedy and ignores the end.

decode     milliseconds of a step: the slope between 16 and 144 output tokens, prompts of 1,024, best of two
prefill    tokens a second over prompts of 4,096 with one output token
offline    output tokens a second of many requests given at once
shared     the same with a prefix cache over groups that share 2,048 tokens, shuffled

`--peer vllm` (or sglang, transformers) asks another engine's offline API the same, where it is installed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import OPEN, Offline, open_engine
from shapes import MODELS, folder
from sizes import SIZES, Prompts, Sizes, common_arguments, flags_of

ALL = ("decode", "prefill", "offline", "shared")
TOLD = ("memory", "max_total_num_tokens", "max_running_requests", "version")


class Runs:
    """One engine, asked and timed."""

    def __init__(self, engine: Offline, vocab: int, sizes: Sizes = SIZES["full"]) -> None:
        self.engine = engine
        self.sizes = sizes
        self.prompts = Prompts(vocab)
        self.prompt = self.prompts.one

    def answers(self, prompts: list[list[int]], new: int) -> tuple[float, list[dict[str, Any]]]:
        """(wall time until all are answered with `new` tokens each, the answers)."""
        sampling = {"max_new_tokens": new, "temperature": 0, "ignore_eos": True}
        start = time.perf_counter()
        answers = self.engine.generate(input_ids=prompts, sampling_params=sampling)
        elapsed = time.perf_counter() - start
        lengths = {len(answer["output_ids"]) for answer in answers}
        if len(answers) != len(prompts) or lengths != {new}:
            raise RuntimeError(f"{len(answers)} answers of {lengths} tokens for {len(prompts)} prompts, {new} tokens")
        return elapsed, answers

    def seconds(self, prompts: list[list[int]], new: int) -> float:
        return self.answers(prompts, new)[0]

    def decode_ms(self, batch: int) -> float:
        """A decoding step at `batch` rows, with a context in the middle of the slope (1,104 at full size)."""
        few, many = self.sizes.slope
        times: dict[int, list[float]] = {few: [], many: []}
        for _ in range(self.sizes.rounds):
            for new in (few, many):
                times[new].append(self.seconds(self.prompts.some(batch, self.sizes.context), new))
        # The best of each: a slope through one slow and one fast prefill says nothing of the steps behind them.
        return (min(times[many]) - min(times[few])) / (many - few) * 1e3

    def prefill_rate(self, count: int) -> float:
        length, best = self.sizes.prefill, 1e9
        for _ in range(self.sizes.rounds):
            best = min(best, self.seconds(self.prompts.some(count, length), 1))
        return count * length / best

    def output_rate(self, count: int, length: int, new: int) -> float:
        return count * new / self.seconds(self.prompts.some(count, length), new)

    def shared_rate(self) -> tuple[float, float | None]:
        """(output tokens a second, share of prompt tokens from the cache; None where the engine does not tell)."""
        prompts, new = self.prompts.shared(self.sizes), self.sizes.shared_new
        elapsed, answers = self.answers(prompts, new)
        cached = [answer["meta_info"].get("cached_tokens") for answer in answers]
        hit = None if None in cached else sum(cached) / sum(map(len, prompts))
        return len(prompts) * new / elapsed, hit


def measure(runs: Runs, wanted: set[str], model: str) -> dict[str, Any]:
    """The figures by name; each is printed when it is there."""
    found: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        print(f"{model} {name}: {value}", flush=True)

    sizes = runs.sizes
    runs.seconds(runs.prompts.some(8, 300), 20)  # warm
    time.sleep(sizes.rest)  # what is captured while the engine rests is not what is measured
    if "decode" in wanted:
        for batch in sizes.batches:
            note(f"decode_ms_{batch}", round(runs.decode_ms(batch), 3))
    if "prefill" in wanted:
        note("prefill_tok_s", round(runs.prefill_rate(min(16, sizes.prefills) if "30b" in model else sizes.prefills)))
    if "offline" in wanted:
        for name, case in sizes.cases.items():
            note(f"offline_{name}", round(runs.output_rate(*case)))
    if "shared" in wanted:
        rate, hit = runs.shared_rate()
        note("shared_tok_s", round(rate))
        note("shared_hit", None if hit is None else round(hit, 3))
    return found


def sized(name: str, batches: str | None) -> Sizes:
    """The sizes of that name, at other numbers of rows if `batches` ("1,64") says so."""
    sizes = SIZES[name]
    if batches is None:
        return sizes
    return Sizes(**{**vars(sizes), "batches": tuple(int(batch) for batch in batches.split(","))})


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-8b")
    parser.add_argument("--peer", choices=sorted(OPEN), default="sglcore", metavar="ENGINE", help=", ".join(OPEN))
    parser.add_argument("--only", default=",".join(ALL), help="comma-separated: " + ", ".join(ALL))
    parser.add_argument("--batches", help="rows of the decoding steps, comma-separated")
    parser.add_argument("--json", type=Path)
    common_arguments(parser)
    asked = parser.parse_args()
    flags, wanted, found = flags_of(asked.flags), set(asked.only.split(",")), {}
    if unknown := wanted - set(ALL):
        parser.error(f"--only: no such part: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as scratch:
        path = folder(asked.model, Path(scratch), asked.layers)
        for cache, names in ((False, wanted - {"shared"}), (True, wanted & {"shared"})):
            if not names:
                continue
            start = time.perf_counter()
            engine = open_engine(asked.peer, path, cache, dict(flags))
            print(f"start {time.perf_counter() - start:.1f} s", engine.info["start_phases"], flush=True)
            print({k: engine.info[k] for k in TOLD if k in engine.info}, flush=True)
            if "decisions" in engine.info:
                print(engine.info["decisions"]["choice"], flush=True)
            found["start_phases"] = engine.info["start_phases"]
            runs = Runs(engine, MODELS[asked.model]["vocab_size"], sized(asked.size, asked.batches))
            found |= measure(runs, names, asked.model)
            engine.shutdown()
    if asked.json:
        told = {"model": asked.model, "engine": asked.peer, "size": asked.size, "flags": flags, **found}
        asked.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
