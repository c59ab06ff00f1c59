"""The Transformers fallback on a GPU: the tokens of Transformers itself, captured where its step allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from parity.tiny import CONFIGS, MATRIX

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that this torch can use"),
]

CAPTURED = {"llama": True, "gpt2": True, "qwen3_moe": False}
WIDE = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
WIDTHS: dict[str, dict[str, int]] = {"llama": WIDE, "qwen3_moe": WIDE, "gpt2": {"n_embd": 256, "n_head": 4}}
PROMPTS = [[(13 * i + 7 * j) % 150 + 3 for j in range(3 + 11 * i)] for i in range(6)]
NEW = 24


def model_of(name: str, folder: Path) -> tuple[Path, Any]:
    """(a checkpoint in float32, the model in float64 on the CPU)."""
    torch.manual_seed(sum(map(ord, name)))
    config = (CONFIGS | MATRIX)[name]()
    for key, value in WIDTHS[name].items():
        setattr(config, key, value)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.08)
    model.save_pretrained(folder / name)
    # experts are grouped products, which torch does not do in float64
    return folder / name, model.to(torch.float32 if "moe" in name else torch.float64)


def engine(path: Path, **flags: Any) -> Any:
    from sglcore import Engine

    given = {"skip_tokenizer_init": True, "max_total_tokens": 4096, "max_running_requests": 16, "device": "cuda"}
    return Engine(str(path), **{**given, "model_impl": "transformers", "attention_backend": "triton", **flags})


def gap_at(model: Any, tokens: list[int]) -> tuple[int, float]:
    """(the likeliest next token, how far it is ahead) behind `tokens`."""
    with torch.inference_mode():
        top = model(torch.tensor([tokens])).logits[0, -1].topk(2)
    return int(top.indices[0]), float(top.values[0] - top.values[1])


@pytest.mark.parametrize("swaps", ["1", "0"])
@pytest.mark.parametrize("name", list(CAPTURED))
def test_greedy_equals_transformers(name: str, swaps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLCORE_FALLBACK_SWAPS", swaps)
    path, model = model_of(name, tmp_path)
    sampling = {"max_new_tokens": NEW, "temperature": 0, "ignore_eos": True}
    excused = 0
    for told, flags in {"captured": {"chunked_prefill_size": 16}, "eager": {"disable_cuda_graph": True}}.items():
        with engine(path, dtype="float32", **flags) as served:
            sizes = served.get_server_info()["graph_sizes"]
            found = [a["output_ids"] for a in served.generate(input_ids=PROMPTS, sampling_params=sampling)]
        assert bool(sizes) is (told == "captured" and CAPTURED[name])
        for prompt, tokens in zip(PROMPTS, found, strict=True):
            for step in range(NEW):
                best, ahead = gap_at(model, prompt + tokens[:step])
                excused += tokens[step] != best
                assert tokens[step] == best or ahead < 1e-4, f"{told}: {tokens} at {step}, {ahead} ahead"
    assert excused <= 1


@pytest.mark.parametrize("name", list(CAPTURED))
def test_what_is_swapped(name: str, tmp_path: Path) -> None:
    """In bfloat16, on the card's own kernels; prints the table."""
    from sglcore.builtin.transformers_fallback import TransformersModel
    from sglcore.contracts.models import BuildContext

    attention = pytest.importorskip("sglcore_plugin_triton_attention.backend").TritonAttention()
    ops = pytest.importorskip("sglcore_plugin_cuda.ops").CudaOps()
    path, _ = model_of(name, tmp_path)
    config = transformers.AutoConfig.from_pretrained(path).to_dict()
    model = TransformersModel(
        BuildContext(config=config, ops=ops, attention=attention, dtype=torch.bfloat16, device=torch.device("cuda", 0))
    )
    state = torch.get_rng_state(), torch.cuda.get_rng_state()
    with torch.inference_mode(), torch.device("cuda", 0):
        model.load_dummy(0)
    assert torch.equal(state[0], torch.get_rng_state()) and torch.equal(state[1], torch.cuda.get_rng_state())
    assert model.module is not None and {p.device.type for p in model.module.parameters()} == {"cuda"}
    for row in model.model_modules:
        print(name, row)
    assert model.graph_safe is CAPTURED[name]
    assert all(row["swapped_for"] for row in model.model_modules), "each of these modules has a kernel"
