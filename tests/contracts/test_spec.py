"""How contracts grow: optional methods have bodies, hooks warn before they go, old implementations still work."""

from __future__ import annotations

import sys
import types
import warnings
from typing import Protocol

import pytest

import sglcore
from sglcore import hookspecs
from sglcore.contracts.grammars import CompiledGrammar, Matcher
from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.contracts.spec import is_optional, method_of, optional
from sglcore.errors import ContractWarning, RequestError
from sglcore.plugins import Plugins, select
from sglcore.registry import Entry

# -- Protocols --


class Counter(Protocol):
    def count(self, items: list[int]) -> int: ...

    @optional
    def twice(self, items: list[int]) -> int:
        """Added later."""
        return 2 * self.count(items)


class Old:
    def count(self, items: list[int]) -> int:
        return len(items)


class New(Old):
    def twice(self, items: list[int]) -> int:
        return -1


def test_an_implementation_that_lacks_an_optional_method_gets_the_protocols_body():
    assert is_optional(Counter.twice) and not is_optional(Counter.count)
    assert method_of(Old(), Counter, "twice")([1, 2]) == 4
    assert method_of(New(), Counter, "twice")([1, 2]) == -1
    assert method_of(Old(), Counter, "count")([1]) == 1


def test_a_method_that_is_not_optional_has_to_be_there():
    with pytest.raises(AttributeError, match="object has no `count`, which Counter promises"):
        method_of(object(), Counter, "count")


class Digits:
    """A grammar of digits 0 to 9 as tokens, written without its Protocol's optional methods."""

    size = 0

    def matcher(self):
        matcher = types.SimpleNamespace(taken=[])

        def accept(tokens):
            good = [t for t in tokens if 0 <= t < 10]
            matcher.taken += good
            return len(good)

        matcher.accept = accept
        return matcher


def test_the_bodies_of_optional_grammar_methods_work():
    rebuild = method_of(Digits(), CompiledGrammar, "rebuild")
    assert rebuild([1, 2, 3]).taken == [1, 2, 3]
    with pytest.raises(ValueError, match="refuses one of 2 tokens"):
        rebuild([1, 99])
    assert method_of(object(), Matcher, "forced")() == []


# -- arguments of logits processors --


def positive(arguments):
    if arguments.get("bias", 0) <= 0:
        raise RequestError("`bias` must be positive.", param="custom_params.bias")


def test_arguments_of_a_logits_processor_are_checked_by_its_validator(monkeypatch):
    module = types.ModuleType("validating")
    module.positive = positive
    monkeypatch.setitem(sys.modules, "validating", module)
    spec = LogitsProcessorSpec(name="x", factory="nowhere:X", validator="validating:positive")
    spec.check({"bias": 1})
    with pytest.raises(RequestError, match="must be positive"):
        spec.check({"bias": 0})
    LogitsProcessorSpec(name="x", factory="nowhere:X").check({"anything": None})


# -- hooks --


def implementing(monkeypatch: pytest.MonkeyPatch, **functions) -> Plugins:
    module = types.ModuleType("old_plugin")
    for name, function in functions.items():
        setattr(module, name, sglcore.hookimpl(function))
    monkeypatch.setitem(sys.modules, "old_plugin", module)
    return select([Entry("hooks", "old", "old_plugin", "sglcore-plugin-old", "1.0", 1)], "auto")


def specified(monkeypatch: pytest.MonkeyPatch, function, **marks) -> None:
    """Put a hook into the core's specifications, in place of one of the same name."""
    monkeypatch.setattr(hookspecs, function.__name__, hookspecs.hookspec(**marks)(function), raising=False)


def test_implementing_a_deprecated_hook_warns_at_registration_and_works(monkeypatch):
    def on_tick(stats): ...

    specified(monkeypatch, on_tick, warn_on_impl=ContractWarning("`on_tick` goes with hooks API 2; use `on_step`."))
    plugins = implementing(monkeypatch, on_tick=lambda stats: stats["steps"])
    with pytest.warns(ContractWarning, match="use `on_step`") as seen:
        hooks = plugins.hooks
    assert [w.filename for w in seen] == [__file__]  # it names the implementation, not the core
    with warnings.catch_warnings(action="error"):
        assert hooks.on_tick(stats={"steps": 3}) == [3]


def test_taking_a_deprecated_argument_warns_and_doing_without_does_not(monkeypatch):
    def on_step(stats, time): ...

    gone = {"time": ContractWarning("`time` goes with hooks API 2; `stats` holds it.")}
    specified(monkeypatch, on_step, warn_on_impl_args=gone)
    with pytest.warns(ContractWarning, match="`stats` holds it"):
        assert implementing(monkeypatch, on_step=lambda stats, time: time).hooks.on_step(stats={}, time=7) == [7]
    with warnings.catch_warnings(action="error"):
        assert implementing(monkeypatch, on_step=lambda stats: 1).hooks.on_step(stats={}, time=7) == [1]


def test_an_old_implementation_works_after_a_hook_has_grown(monkeypatch):
    def on_request_finished(summary, new, newer): ...

    specified(monkeypatch, on_request_finished)
    with warnings.catch_warnings(action="error"):
        hooks = implementing(monkeypatch, on_request_finished=lambda summary: summary["rid"]).hooks
        assert hooks.on_request_finished(summary={"rid": "a"}, new=1, newer=2) == ["a"]
        hooks = implementing(monkeypatch, on_request_finished=lambda: "none").hooks
        assert hooks.on_request_finished(summary={}, new=1, newer=2) == ["none"]


def test_the_warning_is_shown_without_asking():
    assert issubclass(ContractWarning, FutureWarning)  # Python hides DeprecationWarning by default
