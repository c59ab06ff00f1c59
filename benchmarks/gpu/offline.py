"""What the offline engine reaches on this GPU: decode steps, prefill, throughput, shared prefixes.

`python benchmarks/gpu/offline.py --model llama-8b` prints a line a measurement and writes JSON with `--json FILE`.
Weights are random (what counts is their shape), prompts are random token ids, sampling is greedy and ignores the end.

decode     milliseconds of a step: the slope between 16 and 144 output tokens, prompts of 1,024, best of two
prefill    tokens a second over prompts of 4,096 with one output token
offline    output tokens a second of many requests given at once
shared     the same with a prefix cache over groups that share 2,048 tokens, shuffled
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from shapes import MODELS, folder

ALL = ("decode", "prefill", "offline", "shared")


class Runs:
    """One engine, asked and timed."""

    def __init__(self, engine: Any, vocab: int) -> None:
        self.engine = engine
        self.vocab = vocab
        self._dice = random.Random(0)

    def prompt(self, length: int) -> list[int]:
        return [self._dice.randrange(10, self.vocab - 10) for _ in range(length)]

    def seconds(self, prompts: list[list[int]], new: int) -> float:
        """Wall time until all are answered with `new` tokens each."""
        sampling = {"max_new_tokens": new, "temperature": 0, "ignore_eos": True}
        start = time.perf_counter()
        answers = self.engine.generate(input_ids=prompts, sampling_params=sampling)
        elapsed = time.perf_counter() - start
        assert all(len(answer["output_ids"]) == new for answer in answers)
        return elapsed

    def decode_ms(self, batch: int) -> float:
        """A decoding step at `batch` rows and a mean context of 1,104."""
        best = 1e9
        for _ in range(2):
            prompts = [self.prompt(1024) for _ in range(batch)]
            short = self.seconds(prompts, 16)
            long = self.seconds([self.prompt(1024) for _ in range(batch)], 144)
            best = min(best, (long - short) / 128 * 1e3)
        return best

    def prefill_rate(self, count: int) -> float:
        best = 1e9
        for _ in range(2):
            best = min(best, self.seconds([self.prompt(4096) for _ in range(count)], 1))
        return count * 4096 / best

    def output_rate(self, count: int, length: int, new: int) -> float:
        return count * new / self.seconds([self.prompt(length) for _ in range(count)], new)

    def shared_rate(self, groups: int = 64, each: int = 16, new: int = 256) -> tuple[float, float]:
        """(output tokens a second, share of prompt tokens from the cache)."""
        prompts = []
        for _ in range(groups):
            prefix = self.prompt(2048)
            prompts += [prefix + self.prompt(128) for _ in range(each)]
        self._dice.shuffle(prompts)
        sampling = {"max_new_tokens": new, "temperature": 0, "ignore_eos": True}
        start = time.perf_counter()
        answers = self.engine.generate(input_ids=prompts, sampling_params=sampling)
        elapsed = time.perf_counter() - start
        hit = sum(a["meta_info"]["cached_tokens"] for a in answers) / sum(map(len, prompts))
        return len(prompts) * new / elapsed, hit


def measure(runs: Runs, wanted: set[str], model: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        print(f"{model} {name}: {value}", flush=True)

    runs.seconds([runs.prompt(300) for _ in range(8)], 20)  # warm
    time.sleep(4)  # what is captured while the engine rests is not what is measured
    if "decode" in wanted:
        for batch in (1, 16, 64, 256):
            note(f"decode_ms_{batch}", round(runs.decode_ms(batch), 3))
    if "prefill" in wanted:
        note("prefill_tok_s", round(runs.prefill_rate(16 if "30b" in model else 32)))
    if "offline" in wanted:
        note("offline_512x512x256", round(runs.output_rate(512, 512, 256)))
        note("offline_1000x128x512", round(runs.output_rate(1000, 128, 512)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-8b")
    parser.add_argument("--only", default=",".join(ALL), help="comma-separated: " + ", ".join(ALL))
    parser.add_argument("--layers", type=int, help="of the model, for a quick trial")
    parser.add_argument("--json", type=Path)
    parser.add_argument("flags", nargs="*", help="NAME=VALUE engine flags, such as attention_backend=triton")
    asked = parser.parse_args()
    flags: dict[str, Any] = {}
    for pair in asked.flags:
        name, _, value = pair.partition("=")
        try:
            flags[name] = json.loads(value)
        except json.JSONDecodeError:
            flags[name] = value
    wanted, found = set(asked.only.split(",")), {}
    with tempfile.TemporaryDirectory() as scratch:
        path = folder(asked.model, Path(scratch), asked.layers)
        common = {"load_format": "dummy", "skip_tokenizer_init": True, "dtype": "bfloat16", "context_length": 8192}
        from sglcore import Engine

        parts = ((True, wanted - {"shared"}), (False, wanted & {"shared"}))
        for cache_off, names in parts:
            if not names:
                continue
            start = time.perf_counter()
            engine = Engine(str(path), disable_radix_cache=cache_off, **{**common, **flags})
            print(f"start {time.perf_counter() - start:.1f} s", engine.info["start_phases"], flush=True)
            print({k: engine.info[k] for k in ("memory", "max_total_num_tokens", "max_running_requests")}, flush=True)
            print(engine.info["decisions"]["choice"], flush=True)
            found["start_phases"] = engine.info["start_phases"]
            runs = Runs(engine, MODELS[asked.model]["vocab_size"])
            found |= measure(runs, names, asked.model)
            if "shared" in names:
                rate, hit = runs.shared_rate()
                found |= {"shared_tok_s": round(rate), "shared_hit": round(hit, 3)}
                print(f"{asked.model} shared: {rate:.0f} tok/s at {hit:.1%} hits", flush=True)
            engine.shutdown()
    if asked.json:
        asked.json.write_text(json.dumps({"model": asked.model, "flags": flags, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
