"""`sglcore plugins new`: names, refusals, and a plugin of every family that is whole and passes its own tests."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from sglcore.cli.plugins_new import TEMPLATES, kinds, rendered, values, write
from sglcore.cli.plugins_project import read_project
from sglcore.contracts.families import FAMILIES
from sglcore.errors import ConfigError

from .conftest import SOURCE, Run, clean_environment

# Those whose own tests take more than a second or two: they stand in the slow test of `verify`.
HEAVY = {"attention", "models", "platforms"}


def test_every_family_can_be_written() -> None:
    assert kinds() == list(FAMILIES)
    strangers = {p.name for p in TEMPLATES.iterdir()} - set(FAMILIES) - {"common", "verify"}
    assert not strangers


@pytest.mark.parametrize("name", ["pirate", "Pirate", "sglcore-plugin-pirate", "SGLCORE-PLUGIN-Pirate"])
def test_names_lead_to_one_distribution(name: str) -> None:
    words = values("policies", name)
    assert words["distribution"] == "sglcore-plugin-pirate"
    assert words["package"] == "sglcore_plugin_pirate"
    assert words["name"] == "pirate"


def test_a_name_of_several_words() -> None:
    words = values("models", "deep.Sea_pirate")
    assert words["name"] == "DeepSeaPirateForCausalLM"
    assert words["distribution"] == "sglcore-plugin-deep-sea-pirate"
    assert words["package"].isidentifier()


@pytest.mark.parametrize(
    "name", ["", "-x", "x-", "3d", "a b", "a/b", "../x", "é", "sglcore-plugin-", "x" * 65, "class;", "$name"]
)
def test_what_is_no_name_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a plugin"):
        write("policies", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    home = write("policies", "pirate", tmp_path)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="is there already"):
        write("hooks", "pirate", tmp_path)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_the_command(sglcore: Run, tmp_path: Path) -> None:
    done = sglcore("plugins", "new", "hooks", "pirate", "--into", str(tmp_path / "deep"))
    home = tmp_path / "deep" / "sglcore-plugin-pirate"
    assert done.returncode == 0 and done.stdout == f"Wrote {home}. Try it: sglcore plugins verify {home}\n"
    for arguments, told in (
        (("hook", "x"), "Did you mean hooks?"),
        (("hooks", "x y"), "is no name for a plugin"),
        (("hooks", "x", "--into", str(home / "README.md")), "cannot be written"),
    ):
        done = sglcore("plugins", "new", *arguments)
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_distribution_is_whole(tmp_path: Path, kind: str) -> None:
    home = write(kind, "sea-pirate", tmp_path)
    project = read_project(home)
    group = f"sglcore.{kind}.v{FAMILIES[kind].version}"
    (name,) = project.points[group]
    assert name == ("SeaPirateForCausalLM" if kind == "models" else "sea-pirate")
    files = {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "README.md", "src/sglcore_plugin_sea_pirate/__init__.py"} <= set(files)
    assert "tests/test_sglcore_plugin_sea_pirate.py" in files
    for path, text in files.items():
        assert "$" not in re.sub(r"\$[({]?[A-Z]", "", text), path  # nothing was left to fill in
        if path.endswith(".py"):
            assert ast.get_docstring(ast.parse(text)), path
            assert max(map(len, text.splitlines())) <= 120, path
            assert path.startswith("tests") or f"`{path}`" in files["README.md"]
    torch = any(re.search(r"^import torch", text, re.M) for path, text in files.items() if path.startswith("src"))
    assert ("torch" in tomllib.loads(files["pyproject.toml"])["project"]["dependencies"]) is torch


def test_what_is_written_is_in_the_house_style(tmp_path: Path) -> None:
    for kind in FAMILIES:
        write(kind, "pirate", tmp_path / kind)
    settings = ["--isolated", "--line-length=120", "--no-cache", "."]
    own = "lint.isort.known-first-party=['sglcore_plugin_*']"  # as an author sees it: sglcore is somebody else's
    for command in (["check", "--select=E,F,I,UP,B,SIM", "--config", own], ["format", "--check", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, *settings]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_own_tests_pass_in_one_process(tmp_path: Path) -> None:
    """Those of all families but the heavy ones, as an author runs them: plain pytest, nothing of `verify`."""
    light = [kind for kind in FAMILIES if kind not in HEAVY]
    homes = [write(kind, f"a-{kind.replace('_', '-')}", tmp_path) for kind in light]
    path = os.pathsep.join([*(str(home / "src") for home in homes), clean_environment()["PYTHONPATH"]])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *homes]
    done = subprocess.run(
        command,
        env=clean_environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_templates_are_complete() -> None:
    for kind in FAMILIES:
        files = rendered(kind, values(kind, "x"))
        assert sum(path.startswith("src/") for path in files) >= 2
        assert sum(path.startswith("tests/") for path in files) == 1


def test_templates_are_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=SOURCE.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("sglcore-*.whl")
    packed = {name for name in ZipFile(wheel).namelist() if name.endswith(".tmpl")}
    assert packed == {f"sglcore/cli/templates/{p.relative_to(TEMPLATES)}" for p in TEMPLATES.rglob("*.tmpl")}
