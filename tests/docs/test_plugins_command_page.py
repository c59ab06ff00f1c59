"""The page of the `plugins` command names every command and every option that there is, and no other."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import typer

from sglcore.cli.plugins import COMMANDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "plugins-command.md").read_text()
FROM_SERVE = {"explain"}  # its flags are those of `serve`, on the page of flags


def section(name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found is not None, f"no heading ## {name}"
    return found[1]


def options(name: str) -> set[str]:
    """The options a command really has."""
    group = typer.Typer()
    group.callback()(lambda: None)
    importlib.import_module(COMMANDS[name][0]).register(group, [])
    command = typer.main.get_command(group).commands[name]  # type: ignore[attr-defined]
    return {option for p in command.params for option in p.opts if option.startswith("--")} - {"--help"}


def test_every_command_has_its_heading() -> None:
    assert re.findall(r"^## (\w+)$", PAGE, re.M) == list(COMMANDS)
    for name in COMMANDS:
        assert f"$ sglcore plugins {name}" in section(name)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in FROM_SERVE])
def test_every_option_is_told(name: str) -> None:
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"^\$ sglcore serve.*$", "", section(name), flags=re.M)))
    elsewhere = {"--plugins", "--require-lock"}  # of a start
    assert options(name) - {"--output"} <= shown
    assert shown - elsewhere <= options(name)
