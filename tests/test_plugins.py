"""Discovery, versions, clashes and the plan, over made-up installed metadata; and every hook, called."""

from __future__ import annotations

import re
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest

import sglcore
from sglcore import plugins as plugins_module
from sglcore.config import EngineConfig
from sglcore.contracts.models import ModelSpec
from sglcore.errors import PluginError, RequestError
from sglcore.installed import Installed, installed
from sglcore.options import Option
from sglcore.plugin_selection import IN_TREE, WHEN_NAMED
from sglcore.plugins import Entry, Plugins, Selection, discover, from_plan, select


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
    other = entry(dist="sglcore-plugin-y", version="2.0")
    registry = select([entry(), other, entry(name="Z")], "auto").registry("models")
    for look_up in (registry.entry, registry.spec, registry.factory):
        with pytest.raises(PluginError) as error:
            look_up("X")
        assert "sglcore-plugin-x 1.0" in str(error.value) and "sglcore-plugin-y 2.0" in str(error.value)
        assert "--no-plugin sglcore-plugin-x or --no-plugin sglcore-plugin-y" in error.value.remedy
    assert registry.entry("Z").distribution == "sglcore-plugin-x"  # a name that is looked up clashes, not its family


def test_a_clash_is_told_even_where_nobody_looks_the_name_up(caplog):
    found = select([entry(), entry(dist="sglcore-plugin-y")], "auto")
    assert found.registry("models").specs() == []
    found.report()
    assert "Both sglcore-plugin-x 1.0 and sglcore-plugin-y 1.0 register models 'X'" in caplog.text


def test_a_clash_in_a_family_of_which_all_are_considered_stops_the_start():
    clashing = [entry("platforms", "p"), entry("platforms", "p", dist="sglcore-plugin-y")]
    with pytest.raises(PluginError, match="register platforms 'p'"):
        select(clashing, "auto").registry("platforms").specs()
    assert select(clashing, Selection(no_plugin=("sglcore_plugin_Y",))).registry("platforms").clashes() == {}


def test_choice_of_distributions():
    entries = [entry(), entry(name="Y", dist="sglcore_plugin_y"), entry(name="core", dist="sglcore")]
    assert [e.name for e in select(entries, "none").entries] == ["core"]
    assert [e.name for e in select(entries, "sglcore-plugin-y").entries] == ["Y", "core"]
    with pytest.raises(PluginError, match="not installed"):
        select(entries, "sglcore-plugin-z")
    everybody = select(entries, "auto,sglcore-plugin-y")
    assert len(everybody.entries) == 3 and everybody.required == {"sglcore-plugin-y"}
    assert [e.name for e in select(entries, Selection(no_plugin=("SGLCORE_plugin.x",))).entries] == ["Y", "core"]
    with pytest.raises(PluginError, match="leaves it out") as error:
        select(entries, "none").registry("models").spec("X")
    assert "sglcore-plugin-x 1.0" in str(error.value)


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        (Selection("none,sglcore-plugin-x"), "neither auto, none nor a list"),
        (Selection(""), "neither auto, none nor a list"),
        (Selection(no_plugin=("sglcore-plugin-z",)), "--no-plugin names 'sglcore-plugin-z', which is not installed"),
        (Selection("sglcore-plugin-x", ("sglcore-plugin-x",)), "both name sglcore-plugin-x"),
        (Selection(no_plugin=("sglcore",)), "cannot leave out sglcore itself"),
    ],
)
def test_a_selection_that_contradicts_itself_is_told(selection, told):
    with pytest.raises(PluginError, match=told):
        select([entry()], selection)


def test_strangers_that_face_the_network_load_only_when_named():
    entries = [entry("routes", "ollama"), entry("metrics_sinks", "statsd"), entry("policies", "short")]
    found = select(entries, "auto")
    assert [e.family for e in found.entries] == ["policies"]
    assert {r.reason for r in found.left_out} == {WHEN_NAMED}
    with pytest.raises(PluginError, match="--apis ollama"):
        found.registry("routes").spec("ollama")
    assert len(select(entries, "auto,sglcore-plugin-x").entries) == 3
    by_name = select(entries, Selection(apis="openai,ollama"))
    assert [e.family for e in by_name.entries] == ["routes", "policies"]
    assert by_name.required == {"sglcore-plugin-x"}
    ours = [entry("routes", "ollama", dist=sorted(IN_TREE - {"sglcore"})[0])]
    assert len(select(ours, "auto").entries) == 1


def test_in_tree_are_the_distributions_of_this_repository():
    root = Path(__file__).resolve().parents[1]
    texts = [path.read_text() for path in [root / "pyproject.toml", *root.glob("plugins/*/*/pyproject.toml")]]
    assert {re.search(r'^name = "(.+)"', text, re.M)[1] for text in texts} == IN_TREE


def test_the_environment_speaks_where_no_flag_does(monkeypatch):
    monkeypatch.setenv("SGLCORE_PLUGINS", "none")
    assert {e.distribution for e in discover().entries} == {"sglcore"}
    config = EngineConfig(model_path="m")
    assert Selection.of(config, set()).plugins == "none"
    assert Selection.of(config, {"plugins"}).plugins == "auto"
    assert Selection.given("auto").plugins == "auto"


def test_what_is_refused_is_named_when_it_is_asked_for():
    registry = select([entry(api=9)], "auto").registry("models")
    with pytest.raises(PluginError, match=r"'X' of sglcore-plugin-x 1\.0 cannot be used: speaks models API 9"):
        registry.spec("X")


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
    module.SPEC = ModelSpec(name="X", factory="broken_factory_module:missing")
    monkeypatch.setitem(sys.modules, "broken_factory_module", module)
    registry = select([entry(value="broken_factory_module:SPEC")], "auto").registry("models")
    with pytest.raises(PluginError, match="AttributeError"):
        registry.factory("X")


def test_a_child_loads_exactly_the_parents_plan(monkeypatch):
    monkeypatch.setattr(plugins_module, "installed", lambda: Installed([entry(), entry(name="Y"), entry(name="Z")]))
    plan = select([entry(), entry(name="Y")], "auto").plan()
    child = from_plan(plan)
    assert child.plan().digest == plan.digest and "Z" not in child.registry("models")
    monkeypatch.setattr(plugins_module, "installed", lambda: Installed([entry(version="1.1")]))
    with pytest.raises(PluginError, match=r"sglcore-plugin-x 1\.0 is not there"):
        from_plan(plan)
    monkeypatch.setattr(plugins_module, "installed", lambda: Installed([entry(name="Y")]))
    with pytest.raises(PluginError, match=r"sglcore-plugin-x 1\.0 does not register models 'X'"):
        from_plan(plan)


def test_a_distribution_that_changed_under_a_child_is_named(monkeypatch, tmp_path):
    info = tmp_path / "dist_a-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-a\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[sglcore.models.v1]\nX = a.spec:SPEC\n")
    (info / "RECORD").write_text("a/spec.py,sha256=one,1\n")
    monkeypatch.setattr(plugins_module, "installed", lambda: installed(metadata.distributions(path=[str(tmp_path)])))
    plan = discover().plan()
    assert from_plan(plan).plan() == plan
    (info / "RECORD").write_text("a/spec.py,sha256=two,1\n")
    with pytest.raises(PluginError, match=r"its parent planned with: dist-a 1\.2 has other content \(record:"):
        from_plan(plan)


def test_a_child_is_as_strict_as_its_parent(monkeypatch, caplog):
    monkeypatch.setattr(plugins_module, "installed", lambda: Installed([entry(value="no_such_module_anywhere:SPEC")]))
    for choice, strict in (("auto", False), ("sglcore-plugin-x", True)):
        child = from_plan(select([entry(value="no_such_module_anywhere:SPEC")], choice).plan())
        if strict:
            with pytest.raises(PluginError, match="no_such_module_anywhere"):
                child.registry("models").specs()
        else:
            assert child.registry("models").specs() == [] and "no_such_module_anywhere" in caplog.text


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


def on_step_as_wrapper():
    yield


BAD_HOOKS = {
    "unknown argument": (lambda no_such_argument: None, {}, "no_such_argument"),
    "wrapper": (on_step_as_wrapper, {"wrapper": True}, "is a wrapper"),
}


@pytest.mark.parametrize("case", BAD_HOOKS)
@pytest.mark.parametrize("named", [False, True])
def test_a_hook_module_that_does_not_fit_is_not_used_and_where_it_was_named_stops_the_start(
    monkeypatch, caplog, case, named
):
    function, options, problem = BAD_HOOKS[case]
    module = types.ModuleType("hooks_under_test")
    module.on_step = sglcore.hookimpl(**options)(function)
    monkeypatch.setitem(sys.modules, "hooks_under_test", module)
    choice = "sglcore-plugin-x" if named else "auto"
    plugins = select([entry(family="hooks", name="test", value="hooks_under_test")], choice)
    if named:
        with pytest.raises(PluginError, match=r"sglcore-plugin-x 1\.0") as error:
            plugins.check_required()
        assert problem in str(error.value) and "--no-plugin sglcore-plugin-x" in error.value.remedy
        return
    assert not plugins.hooks.on_step
    (broken,) = plugins.broken
    assert problem in broken.reason and len(caplog.records) == 1 and problem in caplog.text
