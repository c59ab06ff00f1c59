"""Constraint matching: what fits is chosen, what does not is told why, nothing falls back silently."""

from __future__ import annotations

import sys
import types

import pytest

from sglcore.config import EngineConfig
from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import KVGroup, ModelSpec
from sglcore.contracts.ops import OpsSpec
from sglcore.engine.choose import (
    OP_NAMES,
    Decisions,
    check_attention,
    choose_attention,
    choose_model,
    choose_ops,
    choose_platform,
)
from sglcore.errors import ConfigError, PluginError
from sglcore.plugins import Entry, Plugins, discover, select


def installed(monkeypatch: pytest.MonkeyPatch, family: str, *specs, **code) -> Plugins:
    """Plugins whose specs (and factories, by name) live in a made-up module."""
    module = types.ModuleType("made_up")
    entries = []
    for i, spec in enumerate(specs):
        setattr(module, f"SPEC{i}", spec)
        entries.append(Entry(family, spec.name, f"made_up:SPEC{i}", f"dist-{spec.name}", "1", 1))
    for name, value in code.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "made_up", module)
    return select(entries, "auto")


def attention(name: str, **declared) -> AttentionSpec:
    return AttentionSpec(name=name, factory="made_up:factory", **declared)


def choose(plugins: Plugins, *, needs=(), page_size=1, backend=None, decisions=None):
    config = EngineConfig(model_path="m", page_size=page_size, attention_backend=backend)
    return choose_attention(config, plugins, decisions or Decisions(), device="cpu", dtype="float32", needs=needs)


def test_the_highest_priority_that_fits(monkeypatch):
    plugins = installed(
        monkeypatch,
        "attention",
        attention("slow"),
        attention("fast", priority=5),
        attention("gpu", priority=9, platforms=("cuda",)),
        attention("half", priority=9, dtypes=("float16",)),
        attention("pages", priority=9, page_sizes=(16, 32)),
        attention("broken", priority=9, probe="made_up:probe"),
        probe=lambda: "needs a thing",
    )
    decisions = Decisions()
    assert choose(plugins, decisions=decisions).name == "fast"
    assert dict(decisions.table["attention"]) == {
        "broken": "needs a thing",
        "fast": "fits",
        "gpu": "runs on cuda, not on cpu",
        "half": "computes in float16, not in float32",
        "pages": "needs a page size of 16, 32, not 1",
        "slow": "fits",
    }
    assert choose(plugins, page_size=16).name == "pages"


def test_needs_are_met_or_named(monkeypatch):
    plugins = installed(monkeypatch, "attention", attention("plain"), attention("window", sliding_window=True))
    assert choose(plugins, needs=("sliding_window",)).name == "window"
    with pytest.raises(ConfigError, match="has no mla"):
        choose(plugins, needs=("mla",))


def test_a_backend_asked_for_by_name_is_taken_or_refused_with_its_reason(monkeypatch):
    plugins = installed(monkeypatch, "attention", attention("a"), attention("b", platforms=("cuda",)))
    assert choose(plugins, backend="a").name == "a"
    with pytest.raises(ConfigError, match="b: runs on cuda"):
        choose(plugins, backend="b")
    with pytest.raises(PluginError, match="no_such"):
        choose(plugins, backend="no_such")


def test_head_size_is_checked_against_the_built_model():
    check_attention(attention("a", head_dims=(64, 128)), (KVGroup(head_dim=64),))
    with pytest.raises(ConfigError, match="the model has 80"):
        check_attention(attention("a", head_dims=(64, 128)), (KVGroup(head_dim=80),))


def test_native_before_fallback_and_by_flag(monkeypatch):
    native = ModelSpec(name="XForCausalLM", factory="made_up:f")
    fallback = ModelSpec(name="any", factory="made_up:f", fallback=True)
    plugins = installed(monkeypatch, "models", native, fallback)

    def chosen(architecture: str, impl: str = "auto") -> str:
        config = EngineConfig(model_path="m", model_impl=impl)
        return choose_model({"architectures": [architecture]}, config, plugins, Decisions()).name

    assert chosen("XForCausalLM") == "XForCausalLM"
    assert chosen("YForCausalLM") == "any"
    assert chosen("XForCausalLM", "transformers") == "any"
    with pytest.raises(ConfigError, match="No installed plugin serves YForCausalLM"):
        chosen("YForCausalLM", "sglcore")
    with pytest.raises(ConfigError, match="architectures"):
        choose_model({}, EngineConfig(model_path="m"), plugins, Decisions())


def test_an_unknown_platform_is_refused():
    with pytest.raises(PluginError, match="no_such"):
        choose_platform(EngineConfig(model_path="m", device="no_such"), discover("none"), Decisions())


class OwnOps:
    graph_safe = batch_invariant = True

    def __init__(self) -> None:
        for name in OP_NAMES:
            setattr(self, name, f"own {name}")


def test_ops_that_fit_are_laid_over_the_platforms_own(monkeypatch):
    def spec(name: str, **declared) -> OpsSpec:
        return OpsSpec(name=name, factory="made_up:Kernels", **declared)

    class Kernels:
        rope = silu_mul = "compiled"

    plugins = installed(
        monkeypatch,
        "ops",
        spec("low", provides=("rope",), priority=1),
        spec("wrong", provides=("linear",), platforms=("cuda",)),
        spec("no", provides=("linear",), probe="made_up:probe"),
        Kernels=Kernels,
        probe=lambda: "not here",
    )
    decisions = Decisions()
    platform = types.SimpleNamespace(ops=OwnOps)
    table = choose_ops(platform, plugins, decisions, device="cpu", dtype="float32")
    assert (table.rope, table.silu_mul, table.linear) == ("compiled", "own silu_mul", "own linear")
    assert dict(decisions.table["ops"]) == {
        "low": "chosen for rope",
        "wrong": "runs on cuda, not on cpu",
        "no": "not here",
    }
