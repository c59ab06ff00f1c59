"""Keys and values in eight bits on a GPU, through the whole engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gpu.test_gpu_engine import NEW, PROMPTS, answers, model_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that this torch can use"),
]

# Root of the mean square of what a token's logprob moves, the tokens before it given, beside a cache in bfloat16.
BOUND = {"fp8_e4m3": 0.15, "fp8_e5m2": 0.3}


def forced(path: Path, prompts: torch.Tensor, **flags: Any) -> torch.Tensor:
    """Logprobs of the prompts' tokens, float64 [prompts, tokens - 1], computed in chunks over what the cache holds."""
    from sglcore import Engine

    given: dict[str, Any] = {"skip_tokenizer_init": True, "max_total_tokens": 8192, "max_running_requests": 16, **flags}
    given |= {"device": "cuda", "dtype": "bfloat16", "chunked_prefill_size": 64}
    with Engine(str(path), **given) as engine:
        asked = {"sampling_params": {"max_new_tokens": 1}, "return_logprob": True, "logprob_start_len": 0}
        told = engine.generate(input_ids=prompts.tolist(), **asked)
    found = [[p[0] for p in answer["meta_info"]["input_token_logprobs"][1:]] for answer in told]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("kv", BOUND)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_logprobs_move_little_and_alike_under_both_backends(name: str, kv: str, tmp_path: Path) -> None:
    """torch's attention converts with torch, Triton's in its kernels."""
    path, _ = model_of(name, tmp_path, torch.bfloat16)
    prompts = torch.randint(3, 150, (8, 180), generator=torch.Generator().manual_seed(7))
    wide = forced(path, prompts, attention_backend="triton")
    triton = forced(path, prompts, attention_backend="triton", kv_cache_dtype=kv)
    plain = forced(path, prompts, attention_backend="torch", kv_cache_dtype=kv)
    moved = float((triton - wide).square().mean().sqrt())
    apart = float((triton - plain).square().mean().sqrt())
    print(f"{name} {kv}: {moved:.4f} from bfloat16, {apart:.4f} between the backends")
    assert 0 < moved < BOUND[kv]
    assert apart < moved


@pytest.mark.parametrize("kv", BOUND)
def test_captured_steps_give_the_same_tokens(kv: str, tmp_path: Path) -> None:
    """But where the last bit of a sum moves a value over the edge between two of eight bits, and a tie with it."""
    path, _ = model_of("llama", tmp_path, torch.float32)
    sampling = {"max_new_tokens": NEW, "temperature": 0, "ignore_eos": True}
    flags: dict[str, Any] = {"dtype": "float32", "kv_cache_dtype": kv}
    captured = answers(path, PROMPTS, sampling, **flags)
    plain = answers(path, PROMPTS, sampling, disable_cuda_graph=True, **flags)
    assert sum(a == b for a, b in zip(captured, plain, strict=True)) >= len(PROMPTS) - 1
