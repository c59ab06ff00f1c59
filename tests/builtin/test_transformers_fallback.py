"""The Transformers fallback against Transformers' own eager forward, on tiny random models."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sglcore.builtin.model_specs import TRANSFORMERS
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.builtin.transformers_fallback import TransformersModel
from sglcore.contracts.models import BuildContext, KVGroup
from sglcore.errors import ConfigError
from sglcore.testing import ModelConformance, ModelHarness, PagedRow

os.environ["HF_HUB_OFFLINE"] = "1"
PAGE = 4
BASE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
MLA = {
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "gpt2": {"model_type": "gpt2", "n_inner": 48, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "mistral-window": {"model_type": "mistral", "sliding_window": 6},
    "gemma2": {"model_type": "gemma2", "sliding_window": 6, "layer_types": SLIDING, "attn_logit_softcapping": 2.0,
               "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16},
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 6, "layer_types": SLIDING},
    "qwen3-moe": {"model_type": "qwen3_moe", **MOE},
    "mixtral": {"model_type": "mixtral", **MOE},
    "gpt-oss": {"model_type": "gpt_oss", **MOE, "sliding_window": 6, "layer_types": SLIDING},
    "gpt-neox": {"model_type": "gpt_neox"},
    "phi": {"model_type": "phi"},
    "phi3-longrope": {"model_type": "phi3", "rope_parameters": {**LONG, "original_max_position_embeddings": 128},
                      "original_max_position_embeddings": 128},
    "granite": {"model_type": "granite", "logits_scaling": 4.0, "attention_multiplier": 0.2},
    "cohere": {"model_type": "cohere", "logit_scale": 0.25},
    "opt": {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32},
    "olmo2": {"model_type": "olmo2"},
    "deepseek-v3": {"model_type": "deepseek_v3", **MOE, **MLA},
}  # fmt: skip


class ReferenceLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias, self.out_features = weight, bias, weight.shape[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dim() == 2 and x.is_contiguous() and len(x)
        return torch.nn.functional.linear(x, self.weight, self.bias)


class ReferenceOps:
    graph_safe = batch_invariant = False

    def __init__(self) -> None:
        self.linears = self.norms = 0

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> ReferenceLinear:
        self.linears += 1
        return ReferenceLinear(weight, bias)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        assert x.dim() == 2
        self.norms += 1
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)


class Rows:
    """Sequences of a batch by name, fed to the model any number of tokens at a time."""

    def __init__(self, model: TransformersModel) -> None:
        self.harness = ModelHarness(model, model.ctx.attention, pages=64, page_size=PAGE)
        self.rows: dict[str, PagedRow] = {}

    def share(self, source: str, target: str, tokens: int) -> None:
        """Let `target` start with the first `tokens` (whole pages) of `source`."""
        pages = [held[: tokens // PAGE] for held in self.rows[source].pages]
        self.rows[target] = PagedRow(planned=64, pages=pages, length=tokens)

    def step(self, new: dict[str, list[int]], sample: list[int] | None = None) -> torch.Tensor:
        """One forward call -> logits [samples or tokens, vocab]."""
        for name in new:
            self.rows.setdefault(name, self.harness.row(64))
        inputs = self.harness.inputs([(self.rows[name], ids) for name, ids in new.items()], sample)
        return self.harness.model.forward(inputs)


def context(config: dict[str, Any], **changes: Any) -> BuildContext:
    values: dict[str, Any] = {
        "config": config,
        "ops": ReferenceOps(),
        "attention": TorchAttention(),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
    }
    return BuildContext(**{**values, **changes})


def reference(config: dict[str, Any]) -> torch.nn.Module:
    """The model as Transformers builds it, eager, with every parameter random."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    made = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    options = {"experts_implementation": "eager"} if "num_experts" in config else {}
    torch.manual_seed(0)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(made)]._from_config(
        made, attn_implementation="eager", dtype=torch.float32, **options
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def checkpoint(model: torch.nn.Module, directory: Path) -> dict[str, torch.Tensor]:
    """The tensors as they stand in a checkpoint, names and layout of the hub's files."""
    from safetensors.torch import load_file

    model.save_pretrained(directory)
    return load_file(directory / "model.safetensors")


def expected(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.dtype == torch.float32
    assert wanted.std() > 1e-2, "a model with flat logits proves nothing"
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=list(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(fallback, Transformers' model) with the same weights."""
    config = {**BASE, **CASES[request.param]}
    model = reference(config)
    tensors = checkpoint(model, tmp_path_factory.mktemp("checkpoint"))
    fallback = TransformersModel(context(config))
    fallback.load(tensors.items())
    return fallback, model


@pytest.fixture(autouse=True)
def no_cache_object(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The fallback must never make a Transformers cache."""
    if request.cls is not None:
        return  # the conformance kit's own reference makes one
    from transformers import cache_utils

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a Transformers cache was constructed")

    monkeypatch.setattr(cache_utils.Cache, "__init__", refuse)
    monkeypatch.setattr(cache_utils.DynamicCache, "__init__", refuse)


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(3, 97), k=count)


class TestConformance(ModelConformance):
    spec = TRANSFORMERS
    model_type = "llama"
    configs = {"llama": {**BASE, "num_hidden_layers": 1}}


def test_whole_prompt(pair: Any) -> None:
    fallback, model = pair
    ids = tokens(37, 1)
    wanted = expected(model, ids)
    close(Rows(fallback).step({"a": ids}), wanted)
    close(Rows(fallback).step({"a": ids}, [36, 5]), wanted[[36, 5]])


def test_chunks_then_decode(pair: Any) -> None:
    fallback, model = pair
    ids, rows = tokens(46, 2), Rows(fallback)
    wanted = expected(model, ids)
    for start in (0, 16):
        close(rows.step({"a": ids[start : start + 16]}), wanted[start : start + 16])
    assert rows.step({"a": ids[32:38]}, []).shape == (0, 97)
    for position in range(38, 46):
        close(rows.step({"a": [ids[position]]}, [0]), wanted[position : position + 1])


def test_ragged_rows_in_one_call(pair: Any) -> None:
    fallback, model = pair
    a, b, c = tokens(21, 3), tokens(30, 4), tokens(9, 5)
    rows = Rows(fallback)
    rows.step({"a": a[:20], "b": b[:11]})
    forwards, attentions = fallback.forward_calls, fallback.attention_calls
    got = rows.step({"c": c, "a": a[20:], "b": b[11:]}, [8, 9, 28])
    assert fallback.forward_calls == forwards + 1
    assert fallback.attention_calls == attentions + len(fallback.kv_groups()[0].layers)
    close(got, torch.stack([expected(model, ids)[-1] for ids in (c, a, b)]))


def test_cached_prefix(pair: Any) -> None:
    fallback, model = pair
    prefix, rows = tokens(16, 6), Rows(fallback)
    rows.step({"a": prefix + tokens(5, 7)})
    rows.share("a", "b", 16)
    other = tokens(7, 8)
    close(rows.step({"b": other}), expected(model, prefix + other)[16:])


def test_without_replaced_modules_the_same(tmp_path: Path) -> None:
    config = {**BASE, **CASES["llama"]}
    model = reference(config)
    tensors = checkpoint(model, tmp_path)
    plain, fast = TransformersModel(context(config), replace_modules=False), TransformersModel(context(config))
    plain.load(tensors.items())
    fast.load(tensors.items())
    assert plain.ctx.ops.linears == 0 and fast.ctx.ops.linears == 3 * 7 + 1
    ids = tokens(12, 9)
    norms = fast.ctx.ops.norms
    close(Rows(plain).step({"a": ids}), expected(model, ids))
    close(Rows(fast).step({"a": ids}), expected(model, ids))
    assert plain.ctx.ops.norms == 0 and fast.ctx.ops.norms == norms + 7


def test_gemma_norms_stay_gemmas() -> None:
    model = TransformersModel(context({**BASE, **CASES["gemma3"]}))
    model.load_dummy(0)
    assert model.ctx.ops.linears > 0 and model.ctx.ops.norms == 0


def test_kv_groups() -> None:
    (group,) = TransformersModel(context({**BASE, **CASES["gemma2"]})).kv_groups()
    assert group == KVGroup(kind="full", layers=(0, 1, 2), kv_heads=2, head_dim=8)
    (group,) = TransformersModel(context({**BASE, **CASES["deepseek-v3"]})).kv_groups()
    assert (group.kv_heads, group.head_dim) == (4, 12)


def test_longrope_keeps_its_long_factors_for_every_row(tmp_path: Path) -> None:
    """Past the original length Transformers switches factors for the whole batch; the fallback must not."""
    config = {**BASE, **CASES["phi3-longrope"], "original_max_position_embeddings": 16}
    config["rope_parameters"] = {**LONG, "original_max_position_embeddings": 16}
    model = reference(config)
    tensors = checkpoint(model, tmp_path)
    fallback = TransformersModel(context(config))
    fallback.load(tensors.items())
    short, long = tokens(8, 10), tokens(40, 11)
    alone = Rows(fallback).step({"a": short}, [7])
    close(Rows(fallback).step({"b": long, "a": short}, [47]), alone)
    close(Rows(fallback).step({"b": long}), expected(model, long))
    assert (alone - expected(model, short)[-1]).abs().max() > 1e-2, "short and long factors must differ to tell"


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3-moe"])
def test_dummy_weights_depend_on_the_seed_alone(name: str) -> None:
    def logits(seed: int) -> torch.Tensor:
        model = TransformersModel(context({**BASE, **CASES[name]}))
        model.load_dummy(seed)
        return Rows(model).step({"a": tokens(6, 12)})

    state = torch.get_rng_state()
    first = logits(1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.isfinite(first).all()
    assert torch.equal(first, logits(1)) and not torch.equal(first, logits(2))


def test_bfloat16() -> None:
    model = TransformersModel(context({**BASE, **CASES["llama"]}, dtype=torch.bfloat16))
    model.load_dummy(0)
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
    assert model.module.model.rotary_emb.inv_freq.dtype == torch.float32


REFUSED = {
    "bloom": ({"model_type": "bloom", "architectures": ["BloomForCausalLM"]}, "ALiBi"),
    "mpt": ({"model_type": "mpt", "architectures": ["MptForCausalLM"]}, "ALiBi"),
    "mamba": ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "recurrent state"),
    "jamba": ({"model_type": "jamba", "architectures": ["JambaForCausalLM"]}, "recurrent state"),
    "qwen3-next": ({"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]}, "recurrent state"),
    "lfm2": ({"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "layer_types": ["conv", "full_attention"],
              "num_hidden_layers": 2}, "layers of type conv"),
    "t5": ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder"),
    "gptj": ({"model_type": "gptj", "architectures": ["GPTJForCausalLM"]}, "attention interface"),
    "bert": ({**BASE, "model_type": "bert", "architectures": ["BertLMHeadModel"]}, "not causal"),
    "classifier": ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "CausalLM alone"),
    "diffllama": ({**BASE, "model_type": "diffllama", "architectures": ["DiffLlamaForCausalLM"]}, "6 calls"),
    "gemma4": ({**BASE, "model_type": "gemma4_text", "architectures": ["Gemma4ForCausalLM"], "layer_types": SLIDING,
                "global_head_dim": 16}, "differ in KV heads x head size"),
    "llama4": ({"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"]}, "chunked_attention"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_by_name(name: str) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        TransformersModel(context(config))
    assert config["architectures"][0] in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_refused_for_counting_positions_its_own_way() -> None:
    config = {**BASE, "model_type": "roberta", "architectures": ["RobertaForCausalLM"], "is_decoder": True}
    with pytest.raises(ConfigError, match=r"RobertaForCausalLM.*positions from 0"):
        TransformersModel(context(config)).load_dummy(0)


def test_no_tensor_parallelism() -> None:
    with pytest.raises(ConfigError, match="size 2"):
        TransformersModel(context({**BASE, **CASES["llama"]}, tp_size=2))


def test_unknown_architecture() -> None:
    with pytest.raises(ConfigError, match=r"NoSuchForCausalLM.*no_such"):
        TransformersModel(context({"model_type": "no_such", "architectures": ["NoSuchForCausalLM"]}))


REMOTE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own_words"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_the_repository_needs_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.py").write_text(REMOTE)
    config = {**BASE, "model_type": "own_words", "architectures": ["OwnForCausalLM"],
              "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}}  # fmt: skip
    with pytest.raises(ConfigError, match="--trust-remote-code"):
        TransformersModel(context(config, directory=str(tmp_path / "own")))
    trusted = TransformersModel(context(config, directory=str(tmp_path / "own"), trust_remote_code=True))
    model = reference({**BASE, **CASES["llama"]})
    trusted.load(checkpoint(model, tmp_path).items())
    ids = tokens(9, 13)
    close(Rows(trusted).step({"a": ids}), expected(model, ids))


def load_changed(tmp_path: Path, change: Any) -> None:
    config = {**BASE, **CASES["llama"]}
    tensors = checkpoint(reference(config), tmp_path)
    change(tensors)
    TransformersModel(context(config)).load(tensors.items())


def test_missing_tensor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 missing \(model.layers.1.self_attn.q_proj.weight\)"):
        load_changed(tmp_path, lambda t: t.pop("model.layers.1.self_attn.q_proj.weight"))


def test_unknown_tensor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 unknown \(model.layers.9.odd.weight\)"):
        load_changed(tmp_path, lambda t: t.update({"model.layers.9.odd.weight": torch.zeros(2)}))


def test_misshapen_tensor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 misshapen \(model.norm.weight \[5\], not \[32\]\)"):
        load_changed(tmp_path, lambda t: t.update({"model.norm.weight": torch.zeros(5)}))


def test_old_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    load_changed(tmp_path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))


def test_forward_needs_weights() -> None:
    with pytest.raises(ConfigError, match="no weights"):
        Rows(TransformersModel(context({**BASE, **CASES["llama"]}))).step({"a": [3]})


def test_spec_is_light_and_points_here() -> None:
    code = "import sys, sglcore.builtin.model_specs; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, sglcore.builtin.transformers_fallback; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert TRANSFORMERS.fallback and TRANSFORMERS.load() is TransformersModel
