"""From a name to its Spec and what it makes: each wrong type has its message, and nobody's failure is another's."""

from __future__ import annotations

import importlib
import sys
import types

import pytest

from sglcore.contracts.policies import PolicySpec
from sglcore.contracts.routes import RouteSpec
from sglcore.errors import ConfigError, PluginError
from sglcore.plugins import Selection, select
from sglcore.registry import MADE, Entry, Registry, spec_class


class Order:
    def order(self, waiting, matched):
        return waiting


def raising(error):
    def factory(*args):
        raise error

    return factory


@pytest.fixture
def registry(monkeypatch):
    """A registry of policies p0, p1 ... of dist-p0 1.0 ..., whose Specs are given."""

    def make(*specs, required=(), family="policies") -> Registry:
        module = types.ModuleType("made_up")
        module.__dict__.update(
            {f"S{i}": s for i, s in enumerate(specs)},
            good=Order,
            nothing=lambda: None,
            text="text",
            oops=raising(ValueError("oops")),
            config=raising(ConfigError("A flag is wrong.")),
        )
        monkeypatch.setitem(sys.modules, "made_up", module)
        entries = [Entry(family, f"p{i}", f"made_up:S{i}", f"dist-p{i}", "1.0", 1) for i in range(len(specs))]
        return select(entries, Selection(",".join(["auto", *required]))).registry(family)

    return make


def policy(name="p0", factory="made_up:good", **more) -> PolicySpec:
    return PolicySpec(name=name, factory=factory, **more)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (None, "is a NoneType, not a PolicySpec"),
        ({"name": "p0"}, "is a dict, not a PolicySpec"),
        (PolicySpec, "is PolicySpec, not a PolicySpec"),
        (RouteSpec(name="p0", factory="a:b"), "is a RouteSpec, not a PolicySpec"),
        (policy("other"), "calls itself 'other'"),
        (policy(factory="made_up.good"), "is 'made_up.good', not `module:attribute`"),
    ],
)
def test_an_object_that_is_not_the_familys_spec_is_refused(registry, spec, told):
    with pytest.raises(PluginError) as error:
        registry(spec).spec("p0")
    text = str(error.value)
    assert text.startswith("dist-p0 1.0 registers policies 'p0', but") and told in text
    assert "--no-plugin dist-p0" in error.value.remedy


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("made_up:nothing", "is of the wrong type: made_up:nothing made a NoneType that has no `order`"),
        ("made_up:oops", "failed while it was built (made_up:oops): ValueError: oops"),
        ("made_up:text", "is a str and cannot be called"),
        ("made_up:missing", "AttributeError"),
        ("no_such_module_here:x", "ModuleNotFoundError"),
    ],
)
def test_a_factory_of_the_wrong_type_names_its_distribution(registry, factory, told):
    with pytest.raises(PluginError) as error:
        registry(policy(factory=factory)).factory("p0")()
    assert told in str(error.value) and "dist-p0 1.0" in str(error.value) and error.value.remedy


def test_what_a_factory_raises_on_purpose_passes_and_what_it_makes_is_handed_on(registry):
    with pytest.raises(ConfigError, match="A flag is wrong"):
        registry(policy(factory="made_up:config")).factory("p0")()
    assert isinstance(registry(policy()).factory("p0")(), Order)


def test_a_broken_one_that_nobody_named_is_left_out_with_one_line(registry, caplog):
    found = registry(None, policy("p1"))
    assert [s.name for s in found.specs()] == ["p1"] and [s.name for s in found.specs()] == ["p1"]
    assert len(caplog.records) == 1 and "dist-p0 1.0" in caplog.text
    (broken,) = found.broken
    assert broken.entry.name == "p0" and "NoneType" in broken.reason


def test_a_broken_one_that_was_named_stops_the_start(registry):
    with pytest.raises(PluginError, match=r"dist-p0 1\.0"):
        registry(None, policy("p1"), required=["dist-p0"]).specs()
    with pytest.raises(PluginError, match=r"dist-p0 1\.0"):
        list(registry(policy(factory="made_up:oops"), required=["dist-p0"]).candidates())


def test_a_candidate_that_cannot_be_made_is_left_out_with_one_line(registry, caplog):
    found = registry(policy(factory="made_up:nothing"), policy("p1"))
    assert [spec.name for spec, made in found.candidates()] == ["p1"]
    assert len(caplog.records) == 1 and "wrong type" in caplog.text


def test_the_core_does_not_hide_its_own_bugs():
    entry = Entry("policies", "fcfs", "sglcore.builtin.policies:FCFS", "sglcore", "1", 1)
    factory = Registry("policies", [entry]).factory("fcfs")
    with pytest.raises(TypeError):
        factory("too", "many", "arguments")


@pytest.mark.parametrize("family", sorted(MADE))
def test_what_is_asked_of_a_made_object_is_promised_by_its_protocol(family):
    kind = spec_class(family)
    home = importlib.import_module(kind.__module__)
    names = [kind.__name__.removesuffix("Spec") + ending for ending in ("", "Backend", "Method")]
    protocol = next(getattr(home, name) for name in names if hasattr(home, name))
    assert set(MADE[family]) <= {name for name in vars(protocol) if not name.startswith("_")}
