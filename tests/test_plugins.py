"""Discovery, versions, clashes and the plan, over made-up installed metadata; and every hook, called."""

from __future__ import annotations

import sys
import types

import pytest

import sglcore
from sglcore import plugins as plugins_module
from sglcore.contracts.spec import Spec
from sglcore.errors import PluginError, RequestError
from sglcore.options import Option
from sglcore.plugins import Entry, Plugins, discover, from_plan, select


def entry(
    family="models", name="X", value="sglcore.builtin.policies:FCFS", dist="sglcore-plugin-x", version="1.0", api=1
):
    return Entry(family, name, value, dist, version, api)


def test_built_ins_come_through_entry_points():
    found = discover("none")
    assert {e.distribution for e in found.entries} == {"sglcore"}
    for family, name in (("platforms", "cpu"), ("attention", "torch"), ("models", "transformers"), ("policies", "lpm")):
        assert name in found.registry(family)
        assert found.registry(family).spec(name).name == name


def test_a_version_this_core_cannot_read_is_refused_with_the_remedy():
    found = select([entry(api=9), entry(name="Y", api=0), entry(family="no_such_family")], "auto")
    assert found.entries == []
    reasons = [r.reason for r in found.refused]
    assert "upgrade sglcore" in reasons[0] and "upgrade the plugin" in reasons[1] and "no_such_family" in reasons[2]
    with pytest.raises(PluginError, match="upgrade sglcore"):
        select([entry(api=9)], "sglcore-plugin-x")


def test_the_same_name_from_two_distributions_names_both():
    found = select([entry(), entry(dist="sglcore-plugin-y", version="2.0")], "auto")
    with pytest.raises(PluginError) as error:
        found.registry("models")
    assert "sglcore-plugin-x 1.0" in str(error.value) and "sglcore-plugin-y 2.0" in str(error.value)


def test_choice_of_distributions():
    entries = [entry(), entry(name="Y", dist="sglcore_plugin_y"), entry(name="core", dist="sglcore")]
    assert [e.name for e in select(entries, "none").entries] == ["core"]
    assert [e.name for e in select(entries, "sglcore-plugin-y").entries] == ["Y", "core"]
    with pytest.raises(PluginError, match="not installed"):
        select(entries, "sglcore-plugin-z")


def test_a_missing_name_offers_what_is_near():
    registry = select([entry(name="LlamaForCausalLM")], "auto").registry("models")
    with pytest.raises(PluginError, match="LlamaForCausalLM"):
        registry.entry("LamaForCausalLM")


def test_a_spec_that_calls_itself_otherwise_is_refused():
    with pytest.raises(PluginError, match="calls itself 'fcfs'"):
        select([entry(family="policies", name="other")], "auto").registry("policies").spec("other")


def test_a_plugin_that_fails_to_import_names_cause_distribution_and_version():
    broken = select([entry(value="no_such_module_anywhere:SPEC")], "auto").registry("models")
    with pytest.raises(PluginError) as error:
        broken.spec("X")
    assert "sglcore-plugin-x 1.0" in str(error.value) and "ModuleNotFoundError" in str(error.value)


def test_a_factory_that_fails_to_load_names_cause(monkeypatch):
    module = types.ModuleType("broken_factory_module")
    module.SPEC = Spec(name="X", factory="broken_factory_module:missing")
    monkeypatch.setitem(sys.modules, "broken_factory_module", module)
    registry = select([entry(value="broken_factory_module:SPEC")], "auto").registry("models")
    with pytest.raises(PluginError, match="AttributeError"):
        registry.factory("X")


def test_a_child_loads_exactly_the_parents_plan(monkeypatch):
    monkeypatch.setattr(plugins_module, "_installed", lambda: [entry(), entry(name="Y")])
    plan = select([entry(), entry(name="Y")], "auto").plan()
    assert from_plan(plan).plan().digest == plan.digest
    monkeypatch.setattr(plugins_module, "_installed", lambda: [entry(version="1.1"), entry(name="Y")])
    with pytest.raises(PluginError, match=r"does not see models 'X' of sglcore-plugin-x 1\.0"):
        from_plan(plan)


# -- hooks: one test each, through pluggy --


def with_hooks(monkeypatch: pytest.MonkeyPatch, **functions) -> Plugins:
    module = types.ModuleType("hooks_under_test")
    for name, function in functions.items():
        setattr(module, name, sglcore.hookimpl(function))
    monkeypatch.setitem(sys.modules, "hooks_under_test", module)
    return select([entry(family="hooks", name="test", value="hooks_under_test")], "auto")


def test_hook_add_options(monkeypatch):
    option = Option("greeting", str, "hello", "What to say.")
    assert with_hooks(monkeypatch, add_options=lambda: [option]).hooks.add_options() == [[option]]


def test_hook_adjust_config(monkeypatch):
    plugins = with_hooks(monkeypatch, adjust_config=lambda config: {"page_size": 16})
    assert plugins.hooks.adjust_config(config=None) == [{"page_size": 16}]


def test_hook_choose_platform(monkeypatch):
    plugins = with_hooks(monkeypatch, choose_platform=lambda available: available[-1])
    assert plugins.hooks.choose_platform(available=["a", "b"]) == "b"


def test_hook_choose_attention(monkeypatch):
    plugins = with_hooks(monkeypatch, choose_attention=lambda: None)  # fewer arguments are fine
    assert plugins.hooks.choose_attention(fitting=["a"]) is None


def test_hook_on_engine_start(monkeypatch):
    seen = []
    with_hooks(monkeypatch, on_engine_start=lambda info: seen.append(info)).hooks.on_engine_start(info={"a": 1})
    assert seen == [{"a": 1}]


def test_hook_on_engine_stop(monkeypatch):
    seen = []
    with_hooks(monkeypatch, on_engine_stop=lambda info: seen.append(info)).hooks.on_engine_stop(info={})
    assert seen == [{}]


def test_hook_admit_request(monkeypatch):
    def admit_request(request):
        raise RequestError("Not today.", status=403)

    with pytest.raises(RequestError, match="Not today"):
        with_hooks(monkeypatch, admit_request=admit_request).hooks.admit_request(request=None)


def test_hook_on_step(monkeypatch):
    seen = []
    with_hooks(monkeypatch, on_step=lambda stats: seen.append(stats)).hooks.on_step(stats={"steps": 3})
    assert seen == [{"steps": 3}]


def test_hook_on_request_finished(monkeypatch):
    seen = []
    plugins = with_hooks(monkeypatch, on_request_finished=lambda summary: seen.append(summary["rid"]))
    plugins.hooks.on_request_finished(summary={"rid": "a"})
    assert seen == ["a"]


def test_an_implementation_with_unknown_arguments_is_refused(monkeypatch):
    with pytest.raises(PluginError, match=r"sglcore-plugin-x 1\.0"):
        _ = with_hooks(monkeypatch, on_step=lambda no_such_argument: None).hooks
