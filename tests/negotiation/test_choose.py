"""From a config and installed plugins to a decision, and from a decision to what was chosen."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest

from engine.made_up import X, attention, made_up, model, platform
from sglcore.config import EngineConfig, build_config
from sglcore.contracts.models import KVGroup
from sglcore.contracts.ops import FusedOps, Ops, OpsSpec
from sglcore.contracts.quant import QuantSpec
from sglcore.errors import ConfigError, PluginError
from sglcore.negotiation.choose import FUSED_NAMES, OP_NAMES, build_ops, build_platform, check_attention, negotiate
from sglcore.negotiation.decision import Decision
from sglcore.plugins import Plugins, discover


def decide(plugins: Plugins, hf: dict[str, Any] | None = None, **flags: Any) -> Decision:
    return negotiate(build_config(EngineConfig, {"model_path": "m", **flags}), hf or X, plugins)


def reasons(decision: Decision, family: str) -> dict[str, str]:
    return {v.name: f"{v.state} {v.reason}".strip() for v in decision.verdicts if v.family == family}


def test_the_highest_priority_that_fits(monkeypatch):
    plugins = made_up(
        monkeypatch,
        platform(),
        model(),
        attention("slow"),
        attention("fast", priority=5),
        attention("gpu", priority=9, platforms=("cuda",)),
        attention("half", priority=9, dtypes=("float16",)),
        attention("pages", priority=9, page_sizes=(16, 32)),
        attention("broken", priority=9, probe="made_up:probe"),
        attention("raising", priority=9, probe="made_up:absent"),
        probe=lambda: "needs a thing",
    )
    decision = decide(plugins)
    assert decision.attention.name == "fast"
    found = reasons(decision, "attention")
    assert found.pop("raising").startswith("rejected its probe made_up:absent failed: AttributeError")
    assert found == {
        "broken": "rejected needs a thing",
        "fast": "chosen",
        "gpu": "rejected runs on cuda, not on cpu",
        "half": "rejected computes in float16, not in float32",
        "pages": "rejected needs a page size of 16, 32, not 1",
        "slow": "fits its priority 0 is below fast's 5",
    }
    assert decide(plugins, page_size=16).attention.name == "pages"


def test_needs_are_met_or_named(monkeypatch):
    backends = attention("plain"), attention("window", sliding_window=True)
    plugins = made_up(monkeypatch, platform(), model(needs=("sliding_window",)), *backends)
    assert decide(plugins).attention.name == "window"
    plugins = made_up(monkeypatch, platform(), model(needs=("mla",)), *backends)
    with pytest.raises(ConfigError, match=r"plain: has no mla; window: has no mla"):
        decide(plugins)


def test_a_need_that_config_json_rules_out_is_none(monkeypatch):
    plugins = made_up(monkeypatch, platform(), model(needs=("sliding_window",)), attention("plain"))
    assert decide(plugins, {**X, "sliding_window": None}).attention.name == "plain"
    with pytest.raises(ConfigError, match="has no sliding_window"):
        decide(plugins, {**X, "sliding_window": 128})


def test_what_is_named_is_taken_or_refused_with_its_reason(monkeypatch):
    plugins = made_up(
        monkeypatch,
        platform(),
        model(),
        attention("a"),
        attention("b", platforms=("cuda",)),
        attention("c", priority=9),
    )
    decision = decide(plugins, attention_backend="a")
    assert reasons(decision, "attention") == {
        "a": "chosen by --attention-backend",
        "b": "rejected --attention-backend names a",
        "c": "rejected --attention-backend names a",
    }
    with pytest.raises(ConfigError, match="--attention-backend b: runs on cuda, not on cpu"):
        decide(plugins, attention_backend="b")
    with pytest.raises(PluginError, match="no_such"):
        decide(plugins, attention_backend="no_such")
    with pytest.raises(PluginError, match="no_such"):
        decide(plugins, device="no_such")
    with pytest.raises(PluginError, match="no_such"):
        decide(plugins, quantization="no_such")


def test_head_sizes_are_compared_where_config_json_tells_them(monkeypatch):
    plugins = made_up(monkeypatch, platform(), model(), attention("a", head_dims=(64, 128), priority=1), attention("b"))
    assert decide(plugins).attention.name == "a"
    assert decide(plugins, {**X, "hidden_size": 320, "num_attention_heads": 4}).attention.name == "b"
    assert decide(plugins, {**X, "hidden_size": 320, "num_attention_heads": 4, "head_dim": 64}).attention.name == "a"


def test_the_built_model_is_checked_too():
    check_attention(attention("a", head_dims=(64, 128)), (KVGroup(head_dim=64),))
    with pytest.raises(ConfigError, match="the model has 80"):
        check_attention(attention("a", head_dims=(64, 128)), (KVGroup(head_dim=80),))
    with pytest.raises(ConfigError, match="one of 32 tokens"):
        check_attention(attention("a"), (KVGroup(kind="window", window=32),))


def test_sizes_of_latents_are_compared_where_the_model_caches_them(monkeypatch):
    narrow = attention("narrow", mla=True, latent_dims=(576,), priority=1)
    hf = {**X, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    plugins = made_up(monkeypatch, platform(), model(needs=("mla",)), narrow, attention("wide", mla=True))
    assert decide(plugins, hf).attention.name == "narrow"
    decision = decide(plugins, {**hf, "kv_lora_rank": 256})
    assert decision.attention.name == "wide"
    assert reasons(decision, "attention")["narrow"] == "rejected serves latents of 576, the model has 320"
    plugins = made_up(monkeypatch, platform(), model(), narrow, attention("wide", mla=True))
    assert decide(plugins, {**hf, "kv_lora_rank": 256}).attention.name == "narrow", "its cache holds keys and values"


def test_the_built_models_latents_are_checked_too():
    latents = (KVGroup(kind="latent", head_dim=576),)
    check_attention(attention("a", head_dims=(64,), mla=True, latent_dims=(576,)), latents)
    with pytest.raises(ConfigError, match="has no mla"):
        check_attention(attention("a"), latents)
    with pytest.raises(ConfigError, match="the model has 576"):
        check_attention(attention("a", mla=True, latent_dims=(320,)), latents)


def test_native_before_fallback_and_by_flag(monkeypatch):
    plugins = made_up(monkeypatch, platform(), attention("a"), model(), model("any", fallback=True))

    def chosen(architecture: str, impl: str = "auto") -> str:
        return decide(plugins, {"architectures": [architecture]}, model_impl=impl).model.name

    assert chosen("XForCausalLM") == "XForCausalLM"
    assert chosen("YForCausalLM") == "any"
    assert chosen("XForCausalLM", "transformers") == "any"
    with pytest.raises(ConfigError, match=r"No installed plugin serves YForCausalLM: any: --model-impl sglcore was"):
        chosen("YForCausalLM", "sglcore")
    with pytest.raises(ConfigError, match="architectures"):
        decide(plugins, {"x": 1})


def test_a_model_that_no_backend_serves_gives_way_to_the_fallback(monkeypatch):
    plugins = made_up(monkeypatch, platform(), attention("a"), model(needs=("mla",)), model("any", fallback=True))
    decision = decide(plugins)
    assert decision.model.name == "any"
    assert reasons(decision, "models")["XForCausalLM"] == "rejected no attention backend serves it: a: has no mla."


def test_a_platform_is_never_given_up_for_what_it_cannot_do(monkeypatch):
    gpu = platform("gpu", device="cuda", priority=9, dtypes=("float16",))
    plugins = made_up(monkeypatch, platform(), gpu, model(), attention("a"))
    with pytest.raises(ConfigError, match="Platform gpu computes in float16, not in float32"):
        decide(plugins, dtype="float32")
    assert decide(plugins).dtype == "float16"  # what auto means there, where the stored float32 is none of its types
    absent = platform("gpu", device="cuda", priority=9, probe="made_up:probe")
    plugins = made_up(monkeypatch, platform(), absent, model(), attention("a"), probe=lambda: "no driver")
    assert reasons(decide(plugins), "platforms") == {"cpu": "chosen", "gpu": "rejected no driver"}
    with pytest.raises(ConfigError, match="--device gpu: no driver"):
        decide(plugins, device="gpu")


def test_hooks_choose_among_what_fits_and_nothing_else(monkeypatch):
    plugins = made_up(
        monkeypatch,
        platform("p"),
        platform("q"),
        model(),
        attention("a", priority=3),
        attention("b"),
        attention("c", mixed=False),
    )
    asked = {}

    def hook(family: str, answer: str | None) -> Any:
        def choose(**given: list[str]) -> str | None:
            asked[family] = next(iter(given.values()))
            return answer

        return choose

    hooks = types.SimpleNamespace(choose_platform=hook("platforms", "q"), choose_attention=hook("attention", "b"))
    monkeypatch.setattr(Plugins, "hooks", hooks)
    decision = decide(plugins)
    assert (decision.platform.name, decision.attention.name) == ("q", "b")
    assert asked == {"platforms": ["p", "q"], "attention": ["a", "b"]}
    assert reasons(decision, "attention")["a"] == "fits a hook named b"
    assert decide(plugins, attention_backend="a").attention.name == "a", "a flag goes before a hook"
    hooks.choose_attention = hook("attention", "c")
    with pytest.raises(PluginError, match="choose_attention hook named 'c', which is not among those that fit: a, b"):
        decide(plugins)


def test_quantized_checkpoints_are_read_by_a_plugin_or_refused(monkeypatch):
    hf = {**X, "quantization_config": {"quant_method": "gptq", "bits": 3, "group_size": 64}}
    plain = (platform(), attention("a"))
    with pytest.raises(
        ConfigError, match=r"quantized \(gptq\), and no installed plugin reads it\. Install a sglcore-pl"
    ):
        decide(made_up(monkeypatch, *plain, model(quantization=True)), hf)

    def method(name: str, **declared: Any) -> QuantSpec:
        return QuantSpec(name=name, factory="made_up:f", **declared)

    quants = (
        method("awq", methods=("awq",)),
        method("four", methods=("gptq",), bits=(4, 8)),
        method("any", methods=("gptq", "awq"), priority=1),
        method("live", online=True),
    )
    plugins = made_up(monkeypatch, *plain, model(quantization=True), *quants)
    decision = decide(plugins, hf)
    assert decision.quant is not None and decision.quant.name == "any"
    assert reasons(decision, "quant") == {
        "any": "chosen",
        "awq": "rejected reads awq, not gptq",
        "four": "rejected reads weights of 4, 8 bits, not of 3",
        "live": "rejected reads plain checkpoints only, not gptq",
    }
    assert decide(plugins, X).quant is None, "a plain model stays plain"
    assert decide(plugins, X, quantization="live").quant is quants[3]
    with pytest.raises(ConfigError, match="--quantization any: does not quantize a plain checkpoint"):
        decide(plugins, X, quantization="any")
    with pytest.raises(ConfigError, match=r"XForCausalLM: has no quantization \(for any\)"):
        decide(made_up(monkeypatch, *plain, model(), *quants), hf)


def test_kv_dtypes_and_tensor_parallelism_are_asked_of_everybody(monkeypatch):
    def found(**flags: Any) -> Decision:
        return decide(plugins, **flags)

    backends = attention("a", priority=1, tensor_parallel=False), attention("b", kv_dtypes=("float8_e4m3fn",))
    plugins = made_up(
        monkeypatch,
        platform(kv_dtypes=("float8_e4m3fn",), tensor_parallel=True),
        model(tensor_parallel=True),
        *backends,
    )
    assert (found().attention.name, found().kv_dtype) == ("a", "float32")
    assert found(kv_cache_dtype="float32").attention.name == "a", "the compute type by name is the compute type"
    assert (found(kv_cache_dtype="fp8_e4m3").attention.name, found(kv_cache_dtype="fp8_e4m3").kv_dtype) == (
        "b",
        "float8_e4m3fn",
    )
    with pytest.raises(ConfigError, match="Platform cpu keeps keys and values in the compute type, float8_e4m3fn, not"):
        found(kv_cache_dtype="int8")
    assert reasons(found(tp_size=2), "attention")["a"] == "rejected has no tensor_parallel (for --tp-size 2)"
    plugins = made_up(monkeypatch, platform(tensor_parallel=True), model(), *backends)
    with pytest.raises(ConfigError, match=r"XForCausalLM: has no tensor_parallel \(for --tp-size 2\)"):
        found(tp_size=2)
    with pytest.raises(ConfigError, match="--kv-cache-dtype 'fp3'"):
        found(kv_cache_dtype="fp3")


class OwnOps:
    graph_safe = batch_invariant = True

    def __init__(self) -> None:
        for name in OP_NAMES:
            setattr(self, name, f"own {name}")


def test_ops_that_fit_are_laid_over_the_platforms_own(monkeypatch):
    def spec(name: str, **declared: Any) -> OpsSpec:
        return OpsSpec(name=name, factory="made_up:Kernels", **declared)

    class Kernels:
        rope = silu_mul = "compiled"

    plugins = made_up(
        monkeypatch,
        platform(),
        model(),
        attention("a"),
        spec("low", provides=("rope",), priority=1, graph_safe=True),
        spec("lower", provides=("rope",)),
        spec("wrong", provides=("linear",), platforms=("cuda",)),
        spec("no", provides=("linear",), probe="made_up:probe"),
        spec("odd", provides=("conv",)),
        Kernels=Kernels,
        probe=lambda: "not here",
    )
    decision = decide(plugins)
    table: Any = build_ops(decision, types.SimpleNamespace(ops=OwnOps), plugins)
    assert (table.rope, table.silu_mul, table.linear) == ("compiled", "own silu_mul", "own linear")
    assert (table.graph_safe, table.batch_invariant) == (True, False), "as far as all of the table is"
    assert reasons(decision, "ops") == {
        "low": "chosen for rope",
        "lower": "fits its priority 0 is below low's 1",
        "wrong": "rejected runs on cuda, not on cpu",
        "no": "rejected not here",
        "odd": "rejected provides conv, which is no op of this core",
    }


def test_a_table_keeps_all_that_the_contract_names():
    """An op that the negotiation did not know would silently be taken apart."""
    for names, contract in ((OP_NAMES, Ops), (FUSED_NAMES, FusedOps)):
        declared = [name for name, value in vars(contract).items() if callable(value) and not name.startswith("_")]
        assert sorted(names) == sorted(declared)


def test_a_platform_that_is_not_what_it_declares_is_refused(monkeypatch):
    import torch

    class Platform:
        device = torch.device("cpu")

        def unavailable(self) -> str | None:
            return None

        def default_dtype(self, wanted: torch.dtype) -> torch.dtype:
            return torch.float16

    def build(spec: Any, **flags: Any) -> Any:
        plugins = made_up(monkeypatch, spec, model(), attention("a"), factory=Platform)
        return build_platform(decide(plugins, **flags), plugins)

    with pytest.raises(
        PluginError, match=r"'p' of dist-p 1 declares the compute type float32, but its code says torch.fl"
    ):
        build(platform("p"))
    with pytest.raises(PluginError, match="declares device 'cuda', but its code says 'cpu'"):
        build(platform("p", device="cuda"))
    assert isinstance(build(platform("p"), dtype="float32"), Platform)
    monkeypatch.setattr(Platform, "unavailable", lambda self: "the cable is out")
    with pytest.raises(ConfigError, match="Platform p: the cable is out"):
        build(platform("p"))


def test_negotiating_imports_no_torch():
    code = (
        "import sys\nfrom sglcore.config import EngineConfig\nfrom sglcore.negotiation.choose import negotiate\n"
        "from sglcore.plugins import discover\n"
        "negotiate(EngineConfig(model_path='m'), {'architectures': ['LlamaForCausalLM']}, discover())\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_installed_plugins_serve_llama_on_the_cpu():
    decision = decide(discover(), {"architectures": ["LlamaForCausalLM"]})
    assert decision.choice["platform"] == "cpu"
    assert decision.model.name in ("LlamaForCausalLM", "transformers")
