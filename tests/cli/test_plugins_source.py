"""What is told of a plugin's source without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sglcore.cli.plugins_source import found, hooks_in, why_not_found


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "loud_package"
    home.mkdir()
    (home / "__init__.py").write_text("raise SystemExit('imported')\n")
    (home / "hooks.py").write_text("from sglcore import hookimpl\n\n\n@hookimpl()\ndef on_step(stats): ...\n")
    (home / "broken.py").write_text("def (\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return home


def test_a_module_is_found_and_its_packages_are_not_imported(package: Path) -> None:
    spec = found("loud_package.hooks")
    assert spec is not None
    assert spec.origin == str(package / "hooks.py")
    assert "loud_package" not in sys.modules
    assert why_not_found("loud_package.hooks:SPEC") is None


@pytest.mark.parametrize("module", ["no_such", "loud_package.no_such", "loud_package.hooks.deeper", "a b", ""])
def test_what_is_not_there(package: Path, module: str) -> None:
    assert found(module) is None
    assert str(why_not_found(f"{module}:SPEC")).startswith("module ")


def test_hooks_are_read_from_the_source(package: Path) -> None:
    assert hooks_in("loud_package.hooks") == ("on_step",)
    assert hooks_in("loud_package.broken") == ()
    assert hooks_in("no_such") == ()
    assert "loud_package" not in sys.modules
