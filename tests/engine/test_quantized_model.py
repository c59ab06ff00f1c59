"""A quantization plugin through the whole engine: chosen by config.json or flag, near the plain model, in a KV type
of its own, and refused by name where nothing reads the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.made_up import made_up
from layers.int8 import INT8, quantized
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.config import EngineConfig, build_config
from sglcore.engine.build import assemble, load_model, open_model
from sglcore.engine.phases import Phases
from sglcore.errors import ConfigError
from sglcore.layers.reference import narrowed
from sglcore.negotiation.demand import DTYPES
from sglcore.plugins import Plugins, discover
from sglcore.request import GenerateRequest, SamplingParams, pack_ids

pytest.importorskip("sglcore_plugin_llama")
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same tiny model, plain and as an int8 checkpoint."""
    plain, int8 = (tmp_path_factory.mktemp(name) for name in ("plain", "int8"))
    tensors = weights()
    save_file(tensors, plain / "model.safetensors")
    stored = {}
    for name, tensor in tensors.items():
        if name.endswith("proj.weight"):
            stem = name.removesuffix("weight")
            stored[f"{stem}qweight"], stored[f"{stem}scales"] = quantized(tensor)
        else:
            stored[name] = tensor
    save_file(stored, int8 / "model.safetensors")
    told = {"quant_method": "int8", "bits": 8, "modules_to_not_convert": ["lm_head"]}
    (plain / "config.json").write_text(json.dumps(CONFIG))
    (int8 / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": told}))
    return plain, int8


def weights() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)

    def matrix(out: int, columns: int) -> torch.Tensor:
        return torch.randn(out, columns, generator=random) * columns**-0.5

    found = {"model.embed_tokens.weight": matrix(64, 32), "lm_head.weight": matrix(64, 32)}
    found["model.norm.weight"] = torch.ones(32)
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes = {"q": (32, 32), "k": (16, 32), "v": (16, 32), "o": (32, 32)}
        found |= {f"{prefix}self_attn.{n}_proj.weight": matrix(*shape) for n, shape in shapes.items()}
        shapes = {"gate": (48, 32), "up": (48, 32), "down": (32, 48)}
        found |= {f"{prefix}mlp.{n}_proj.weight": matrix(*shape) for n, shape in shapes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}{norm}.weight"] = torch.ones(32)
    return found


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """What is installed, and int8."""
    return made_up(monkeypatch, INT8, also=discover())


def run(path: Path, plugins: Plugins, **flags: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """(logprobs of a prompt's tokens, what the engine tells of itself)."""
    values = {"model_path": str(path), "max_total_tokens": 256, "page_size": 4, "model_impl": "sglcore", **flags}
    config = build_config(EngineConfig, values)
    opened = open_model(config, path, plugins, Phases())
    built = assemble(load_model(opened, config, path, plugins, Phases()), config, plugins, Phases())
    prompt = pack_ids([(7 * i * i + 3 * i) % 64 for i in range(24)])
    asked = SamplingParams(max_new_tokens=2, temperature=0.0, ignore_eos=True)
    built.engine.add(GenerateRequest(rid="r", input_ids=prompt, sampling=asked, return_logprob=True, logprob_start=0))
    found: list[float] = []
    while built.engine.has_work:
        for out in built.engine.step():
            found += [lp.logprob for lp in (out.input_logprobs or []) + (out.logprobs or []) if lp.logprob is not None]
    built.engine.close()
    return torch.tensor(found), built.info


def test_a_quantized_checkpoint_is_near_its_plain_self(models: tuple[Path, Path], plugins: Plugins) -> None:
    plain, _ = run(models[0], plugins)
    int8, info = run(models[1], plugins)
    assert info["decisions"]["choice"]["quantization"] == "int8"
    assert len(plain) == len(int8) == 25
    assert not torch.equal(plain, int8)
    assert float((plain - int8).abs().max()) < 0.1
    assert float(plain.std()) > 0.3, "the model tells tokens apart, so that near means something"


def test_a_plain_checkpoint_is_quantized_if_the_flag_says_so(models: tuple[Path, Path], plugins: Plugins) -> None:
    online, info = run(models[0], plugins, quantization="int8")
    assert info["decisions"]["choice"]["quantization"] == "int8"
    plain, info = run(models[0], plugins)
    assert info["decisions"]["choice"]["quantization"] is None
    assert 0 < float((plain - online).abs().max()) < 0.1


def test_dummy_weights_of_a_quantized_checkpoint(models: tuple[Path, Path], plugins: Plugins) -> None:
    found, _ = run(models[1], plugins, load_format="dummy")
    assert len(found) == 25 and bool(torch.isfinite(found).all())


def test_without_a_plugin_the_checkpoint_is_refused_before_torch_loads(models: tuple[Path, Path]) -> None:
    config = EngineConfig(model_path=str(models[1]))
    with pytest.raises(
        ConfigError, match=r"quantized \(int8\), and no installed plugin reads it.*Install a sglcore-plugin"
    ):
        open_model(config, models[1], discover(), Phases())


@pytest.mark.parametrize("kv", ["bf16", "float16"])
def test_keys_and_values_of_another_type(models: tuple[Path, Path], plugins: Plugins, kv: str) -> None:
    narrow, info = run(models[0], plugins, kv_cache_dtype=kv)
    choice = info["decisions"]["choice"]
    assert (choice["attention"], choice["dtype"], choice["kv_dtype"]) == ("torch", "float32", DTYPES.get(kv, kv))
    plain, other = run(models[0], plugins, attention_backend="torch")
    assert other["kv_cache_dtype"] == "float32"
    assert 0 < float((plain - narrow).abs().max()) < 0.1
    with pytest.raises(ConfigError, match="Platform cpu keeps keys and values in the compute type, float32"):
        run(models[0], plugins, attention_backend="torch", kv_cache_dtype="int8")


# How far a token's logprob moves on average, the tokens before it given, beside a cache in float32: four and three
# binary digits of a value are kept. The model's own logprobs spread by more than 0.3.
EIGHT_BITS = {"fp8_e4m3": 0.05, "fp8_e5m2": 0.1}


@pytest.mark.parametrize("kv", EIGHT_BITS)
def test_keys_and_values_in_eight_bits(
    models: tuple[Path, Path], plugins: Plugins, monkeypatch: pytest.MonkeyPatch, kv: str
) -> None:
    """Nothing is lost but the digits that were rounded away: the same as a float32 cache of rounded values."""
    flags = {"attention_backend": "torch", "chunked_prefill_size": 8}
    plain, _ = run(models[0], plugins, **flags)
    narrow, info = run(models[0], plugins, kv_cache_dtype=kv, **flags)
    assert info["kv_cache_dtype"] == DTYPES[kv]
    error = (plain - narrow).abs()
    assert 0 < float(error.mean()) < EIGHT_BITS[kv] and float(error.max()) < 6 * EIGHT_BITS[kv]
    write, kind = TorchAttention.write_kv, getattr(torch, DTYPES[kv])

    def rounded(self: TorchAttention, layer: int, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> None:
        write(self, layer, narrowed(k, kind).float(), narrowed(v, kind).float(), *rest)

    monkeypatch.setattr(TorchAttention, "write_kv", rounded)
    emulated, _ = run(models[0], plugins, **flags)
    assert float((emulated - narrow).abs().max()) < 1e-5


def test_half_the_memory_holds_twice_the_tokens(
    models: tuple[Path, Path], plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pool measured by memory."""
    monkeypatch.setattr("sglcore.builtin.cpu.CpuPlatform.free_memory", lambda self: 2**18)
    flags = {"max_total_tokens": None, "attention_backend": "torch"}
    kinds = ("auto", "bf16", "fp8_e4m3", "fp8_e5m2")
    whole, half, *eighths = (
        run(models[0], plugins, kv_cache_dtype=kv, **flags)[1]["max_total_num_tokens"] for kv in kinds
    )
    assert half == 2 * whole and eighths == [2 * half] * 2


def test_a_checkpoint_may_hold_scales_of_its_cache(
    models: tuple[Path, Path], plugins: Plugins, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are read, and tell in a cache of eight bits alone; the log says what holds."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    names = [f"model.layers.{layer}.self_attn.{kind}_proj.{kind}_scale" for layer in range(2) for kind in "kv"]
    save_file(weights() | {name: torch.tensor(0.37) for name in names}, tmp_path / "model.safetensors")
    flags = {"attention_backend": "torch", "chunked_prefill_size": 8}
    plain = run(models[0], plugins, **flags)[0]
    assert torch.equal(run(tmp_path, plugins, **flags)[0], plain)
    assert "by the scales of the checkpoint" not in caplog.text
    scaled, unscaled = (run(path, plugins, kv_cache_dtype="fp8_e4m3", **flags)[0] for path in (tmp_path, models[0]))
    assert "kept in float8_e4m3fn: by the scales of the checkpoint" in caplog.text
    assert not torch.equal(scaled, unscaled)
    assert float((scaled - plain).abs().mean()) < EIGHT_BITS["fp8_e4m3"]
