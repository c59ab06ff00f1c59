"""Breakers, hooks that fail one by one, and whose code an error came from."""

from __future__ import annotations

import inspect
import sys
import types

import pytest

import sglcore
from sglcore import hookspecs
from sglcore.contracts.attention import AttentionSpec
from sglcore.errors import PluginError, RequestError
from sglcore.isolation import CONTAINED, GATES, LIMIT, Breaker, Faults, blame, failure_text
from sglcore.plugins import Entry, Plugins, select

HOOKS = [name for name, function in vars(hookspecs).items() if hasattr(function, "sglcore_spec")]
START = [name for name in HOOKS if name not in CONTAINED | GATES]
OFFERED = {name: dict.fromkeys(inspect.signature(getattr(hookspecs, name)).parameters) for name in HOOKS}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def two_plugins(monkeypatch: pytest.MonkeyPatch, name: str, bad, good) -> Plugins:
    """`bad` is of dist-a 1.0, `good` of dist-b 2.0; both implement the hook `name`."""
    entries = []
    for dist, version, function in (("dist-a", "1.0", bad), ("dist-b", "2.0", good)):
        module = types.ModuleType(f"hooks_of_{dist[-1]}")
        setattr(module, name, sglcore.hookimpl(function))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entries.append(Entry("hooks", "main", module.__name__, dist, version, 1))
    return select(entries)


def oops():
    raise ValueError("oops")


# -- breakers --


def test_a_breaker_opens_after_errors_in_a_row_only():
    breaker = Breaker("p", "w", limit=3)
    for _ in range(5):
        assert not breaker.failed(ValueError())
        assert not breaker.failed(ValueError())
        breaker.succeeded()
    assert not breaker.open and breaker.errors == 10
    assert [breaker.failed(ValueError()) for _ in range(3)] == [False, False, True]
    assert breaker.open


def test_a_breaker_with_rest_lets_one_through_and_opens_again_at_the_next_error():
    clock = Clock()
    breaker = Breaker("p", "w", limit=2, rest=30.0, clock=clock)
    breaker.failed(ValueError())
    assert breaker.failed(ValueError()) and breaker.open
    clock.now = 31.0
    assert not breaker.open
    assert breaker.failed(ValueError()) and breaker.open
    clock.now = 62.0
    breaker.succeeded()
    assert not breaker.failed(ValueError()) and not breaker.open


def test_the_log_of_errors_cannot_be_flooded(caplog):
    breaker = Breaker("p", "w", limit=10**9)
    for _ in range(1000):
        breaker.failed(ValueError("why"))
    assert len(caplog.records) == 10  # 1, 2, 4 ... 512
    assert "p failed in w (error 1): ValueError: why" in caplog.text


def test_faults_are_counted_by_plugin_and_place():
    faults = Faults()
    faults.breaker("b", "x").failed(KeyError("secret words of a client"))
    faults.breaker("a", "y", limit=1).failed(ValueError())
    faults.breaker("a", "quiet")
    assert faults.rows() == [
        {"plugin": "a", "hook": "y", "errors": 1, "last": "ValueError", "open": True},
        {"plugin": "b", "hook": "x", "errors": 1, "last": "KeyError", "open": False},
    ]
    assert faults.breaker("a", "y").errors == 1


# -- an exception in each hook --


def test_every_hook_has_its_place():
    assert set(HOOKS) >= CONTAINED | GATES and len(HOOKS) >= 9


@pytest.mark.parametrize("name", START)
def test_an_exception_in_a_hook_of_the_start_stops_it_naming_distribution_and_hook(monkeypatch, name):
    plugins = two_plugins(monkeypatch, name, oops, lambda: None)
    with pytest.raises(PluginError) as error:
        getattr(plugins.hooks, name)(**OFFERED[name])
    assert str(error.value).startswith(f"{name} of dist-a 1.0 failed: ValueError: oops")
    assert "--no-plugin dist-a" in error.value.remedy


@pytest.mark.parametrize("name", sorted(CONTAINED))
def test_an_exception_in_an_observer_is_counted_and_reaches_nobody_else(monkeypatch, caplog, name):
    seen = []
    plugins = two_plugins(monkeypatch, name, oops, lambda: seen.append(1))
    for _ in range(LIMIT + 3):
        getattr(plugins.hooks, name)(**OFFERED[name])
    assert len(seen) == LIMIT + 3
    (row,) = plugins.faults.rows()
    assert row == {"plugin": "dist-a", "hook": name, "errors": LIMIT, "last": "ValueError", "open": True}
    assert caplog.text.count(f"dist-a failed in {name} {LIMIT} times in a row; it is left out there.") == 1


@pytest.mark.parametrize("name", sorted(GATES))
def test_a_gate_that_fails_stays_shut_and_names_the_plugin(monkeypatch, name):
    plugins = two_plugins(monkeypatch, name, oops, lambda: None)
    for _ in range(3 * LIMIT):
        with pytest.raises(RequestError, match=f"The plugin dist-a failed in {name}") as error:
            getattr(plugins.hooks, name)(**OFFERED[name])
        assert error.value.status == 500 and error.value.code == "plugin_error" and "oops" not in str(error.value)
    assert plugins.faults.rows()[0]["errors"] == 3 * LIMIT


def test_a_refusal_is_no_failure(monkeypatch):
    def admit_request():
        raise RequestError("Not today.", status=403)

    plugins = two_plugins(monkeypatch, "admit_request", admit_request, lambda: None)
    with pytest.raises(RequestError, match="Not today"):
        plugins.hooks.admit_request(request=None)
    assert plugins.faults.rows() == []


def test_hooks_that_nobody_implements_are_false_and_take_no_time(monkeypatch):
    hooks = two_plugins(monkeypatch, "on_step", oops, oops).hooks
    assert hooks.on_step and not hooks.on_request_finished
    assert hooks.on_request_finished(summary={}) == [] and hooks.choose_platform(available=[]) is None


def test_both_plugins_of_a_hook_can_be_left_out(monkeypatch):
    plugins = two_plugins(monkeypatch, "on_step", oops, oops)
    for _ in range(LIMIT):
        plugins.hooks.on_step(stats={})
    assert not plugins.hooks.on_step
    assert [row["errors"] for row in plugins.faults.rows()] == [LIMIT, LIMIT]


# -- whose code it was --

ENTRIES = [
    Entry("attention", "a", "acme.attention.spec:SPEC", "acme-attention", "1.0", 1),
    Entry("models", "M", "acme.models.spec:SPEC", "acme-models", "2.0", 1),
    Entry("quant", "q", "single:SPEC", "single-dist", "3.0", 1),
    Entry("ops", "o", f"{__name__}:SPEC", "sglcore", "0.1", 1),
]


def code_in(module: str, source: str):
    """A function `f` whose frames live in `module`."""
    space = {"__name__": module}
    code = compile(source, f"/site-packages/{module.replace('.', '/')}.py", "exec")
    types.FunctionType(code, space)()
    return space["f"]


def error_of(function, *args) -> BaseException:
    with pytest.raises(Exception) as caught:
        function(*args)
    return caught.value


CALLS = "def f(inner):\n    return inner()\n"
RAISES = "def f():\n    raise ValueError('oops')\n"


def test_blame_names_the_innermost_plugin_with_its_line():
    model, attention = code_in("acme.models.llama", CALLS), code_in("acme.attention.kernels.fast", RAISES)
    error = error_of(model, attention)
    assert blame(error, ENTRIES) == "acme-attention 1.0 (fast.py:2, f)"
    assert failure_text(error, ENTRIES) == ("The engine failed in acme-attention 1.0 (fast.py:2, f): ValueError: oops")


def test_what_a_library_raises_is_its_callers():
    assert blame(error_of(code_in("single", CALLS), oops), ENTRIES) == "single-dist 3.0 (single.py:2, f)"


def test_nobody_is_blamed_for_a_shared_namespace_the_core_or_a_stranger():
    for module in ("acme.other", "acme", "elsewhere", __name__):
        assert blame(error_of(code_in(module, RAISES)), ENTRIES) == ""
    assert failure_text(ValueError("oops"), ENTRIES) == "The engine failed: ValueError: oops"


def test_code_beside_the_spec_belongs_to_its_distribution(monkeypatch):
    module = types.ModuleType("flat_specs")
    module.SPEC = AttentionSpec(name="flat", factory="flat_code:Flat")
    monkeypatch.setitem(sys.modules, "flat_specs", module)
    entries = [*ENTRIES, Entry("attention", "flat", "flat_specs:SPEC", "flat-dist", "4.0", 1)]
    assert blame(error_of(code_in("flat_code", RAISES)), entries) == "flat-dist 4.0 (flat_code.py:2, f)"


def test_a_cause_is_followed():
    def wrapped():
        try:
            code_in("single", RAISES)()
        except ValueError as error:
            raise RuntimeError("core") from error

    assert blame(error_of(wrapped), ENTRIES) == "single-dist 3.0 (single.py:2, f)"
