"""The clock around hook implementations."""

from __future__ import annotations

import io
import os
import re
import types

import pluggy
import pytest

import sglcore
from sglcore import hookspecs
from sglcore.hook_trace import trace

LINE = re.compile(rf"hook (\w+) of (\S+): \d+\.\d{{3}} ms in process {os.getpid()}(, raised \w+)?")


def traced(**functions: object) -> tuple[pluggy.PluginManager, io.StringIO]:
    module = types.ModuleType("mine")
    for name, function in functions.items():
        setattr(module, name, sglcore.hookimpl(function))
    manager = pluggy.PluginManager("sglcore")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name="dist-a:mine")
    told = io.StringIO()
    trace(manager, told)
    return manager, told


def lines(told: io.StringIO) -> list[tuple[str, str, str]]:
    found = [LINE.fullmatch(line) for line in told.getvalue().splitlines()]
    assert all(found), told.getvalue()
    return [(m[1], m[2], m[3] or "") for m in found if m]


def test_a_call_is_told_and_its_answer_passed_on() -> None:
    manager, told = traced(choose_platform=lambda available: available[-1], on_step=lambda: None)
    assert manager.hook.choose_platform(available=["secret", "b"]) == "b"
    manager.hook.on_step(stats={"key": "secret"})
    manager.hook.on_engine_stop(info={})  # nobody implements it
    assert lines(told) == [("choose_platform", "dist-a:mine", ""), ("on_step", "dist-a:mine", "")]
    assert "secret" not in told.getvalue()


def test_an_exception_is_told_and_passed_on() -> None:
    def on_step(stats: object) -> None:
        raise ValueError("secret")

    manager, told = traced(on_step=on_step)
    with pytest.raises(ValueError, match="secret"):
        manager.hook.on_step(stats={})
    assert lines(told) == [("on_step", "dist-a:mine", ", raised ValueError")]
    assert "secret" not in told.getvalue()


def test_implementations_that_are_called_one_by_one_are_told_too() -> None:
    manager, told = traced(adjust_config=lambda config: {"page_size": config})
    (implementation,) = manager.hook.adjust_config.get_hookimpls()
    assert implementation.argnames == ("config",)
    assert implementation.function(config=4) == {"page_size": 4}
    assert lines(told) == [("adjust_config", "dist-a:mine", "")]
