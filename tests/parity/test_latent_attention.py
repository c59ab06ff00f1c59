"""Latent attention in a whole model: DeepSeek-V2's shape equals Transformers', in the kit and through the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engine.made_up import made_up
from parity.deepseek_v2 import SPEC
from parity.reference import Parity, compare
from parity.test_parity import prompts
from sglcore.config import EngineConfig, build_config
from sglcore.engine.build import Built, assemble, load_model, open_model
from sglcore.engine.phases import Phases
from sglcore.errors import ConfigError
from sglcore.layers.latent import latent_group
from sglcore.memory.pool import KVPool
from sglcore.plugins import discover
from sglcore.request import GenerateRequest, SamplingParams, pack_ids
from sglcore.testing import ModelConformance

SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "kv_lora_rank": 24,
    "q_lora_rank": 40,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "first_k_dense_replace": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
GAP = 1e-4


class TestDeepseekV2(ModelConformance):
    spec = SPEC
    model_type = "deepseek_v2"
    configs = {"dense": SHAPE, "queries at once, experts": {**SHAPE, **EXPERTS, "q_lora_rank": None}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(directory, Transformers model in float32), weights large enough for varied answers."""
    torch.manual_seed(11)
    config = transformers.AutoConfig.for_model("deepseek_v2", **{**SHAPE, **EXPERTS})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    path = tmp_path_factory.mktemp("deepseek")
    model.save_pretrained(path)
    return path, model


def built(path: Path, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> Built:
    plugins = made_up(monkeypatch, SPEC, also=discover())
    values = {"model_path": str(path), "max_total_tokens": 4096, "model_impl": "sglcore", **flags}
    config = build_config(EngineConfig, values)
    opened = open_model(config, path, plugins, Phases())
    return assemble(load_model(opened, config, path, plugins, Phases()), config, plugins, Phases())


@pytest.mark.parametrize(
    "flags",
    [
        {"page_size": 1, "chunked_prefill_size": 512},
        {"page_size": 16, "chunked_prefill_size": 16, "max_running_requests": 3},
        {"page_size": 5, "chunked_prefill_size": 64, "disable_radix_cache": True},
    ],
    ids=["pages of 1", "pages of 16, small chunks", "pages of 5, no cache"],
)
def test_greedy_equals_transformers(tiny, monkeypatch, flags):
    path, model = tiny
    own = built(path, monkeypatch, **flags)
    choice = own.info["decisions"]["choice"]
    assert (choice["model"], choice["attention"]) == ("DeepseekV2ForCausalLM", "torch")
    assert own.info["kv_groups"] == [{"kind": "latent", "layers": 3, "window": 0}]
    sampling = SamplingParams(max_new_tokens=16, temperature=0.0, ignore_eos=True)
    total, cached = Parity(), 0
    for turn in range(2):  # the same prompts twice, so that the cache is used
        asked = {f"{turn}-{i}": prompt for i, prompt in enumerate(prompts(6, 160))}
        answers: dict[str, list[int]] = {rid: [] for rid in asked}
        for rid, prompt in asked.items():
            own.engine.add(GenerateRequest(rid=rid, input_ids=pack_ids(prompt), sampling=sampling))
        while own.engine.has_work:
            for out in own.engine.step():
                answers[out.rid] += list(out.token_ids)
                cached = max(cached, out.cached_tokens)
        for rid, prompt in asked.items():
            assert len(answers[rid]) == 16
            total += compare(model, prompt, answers[rid], GAP)
    own.engine.close()
    assert total.wrong == 0 and total.share <= 0.001, total
    assert (cached > 0) == (not flags.get("disable_radix_cache", False))


def test_a_latent_takes_one_vector_a_token():
    group = latent_group(3, 512, 64)
    assert group.bytes_per_token(2) == 3 * 576 * 2
    pool = KVPool([group], [7], 16, torch.bfloat16, torch.device("cpu"))
    held = [pool.latent(layer) for layer in group.layers]
    assert all(latents.shape == (8, 16, 1, 576) for latents in held)
    assert sum(x.numel() * x.element_size() for x in held) == 8 * 16 * group.bytes_per_token(2)


def test_a_model_of_latents_takes_a_backend_that_has_them(tiny, monkeypatch):
    with pytest.raises(ConfigError, match=r"cpu-kernels: .*has no mla"):
        built(tiny[0], monkeypatch, attention_backend="cpu-kernels")
