"""Plugins' changes to a config."""

from __future__ import annotations

from typing import Any

import pytest

import sglcore
from sglcore.config import EngineConfig
from sglcore.engine.adjust import adjusted
from sglcore.errors import PluginError
from sglcore.plugins import Plugins

CONFIG = EngineConfig(model_path="m", page_size=4)


class Adjusting:
    """A plugin that answers with what it was made with, and keeps the configs it saw."""

    def __init__(self, changes: dict[str, Any] | None) -> None:
        self.seen: list[EngineConfig] = []
        self._changes = changes

    @sglcore.hookimpl
    def adjust_config(self, config: EngineConfig) -> dict[str, Any] | None:
        self.seen.append(config)
        return self._changes


def adjust(*modules: Adjusting, given: frozenset[str] = frozenset()) -> EngineConfig:
    plugins = Plugins([])
    for index, module in enumerate(modules):
        plugins.hook_manager.register(module, name=f"dist-{index}:main")
    return adjusted(CONFIG, set(given), plugins)


def test_without_plugins_nothing_changes() -> None:
    assert adjust() is CONFIG
    assert adjust(Adjusting(None)) is CONFIG


def test_changes_add_up_in_the_order_of_hooks() -> None:
    first, second = Adjusting({"page_size": 8}), Adjusting({"device": "cpu"})
    changed = adjust(second, first)  # hooks are called last in, first out
    assert (changed.page_size, changed.device) == (8, "cpu")
    assert second.seen[0].page_size == 8


def test_a_given_flag_is_not_overridden() -> None:
    with pytest.raises(PluginError, match=r"dist-0 needs --page-size 8, but 4 was given"):
        adjust(Adjusting({"page_size": 8}), given=frozenset({"page_size"}))
    assert adjust(Adjusting({"page_size": 4}), given=frozenset({"page_size"})) == CONFIG


@pytest.mark.parametrize("changes", [{"page_size": 0}, {"nonsense": 1}])
def test_a_bad_change_names_the_distribution(changes: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="dist-0 changes the config"):
        adjust(Adjusting(changes))
