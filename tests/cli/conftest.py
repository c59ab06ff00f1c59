"""Helpers of the CLI tests: a command line run in a subprocess, and made-up plugin distributions on its path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
Run = Callable[..., subprocess.CompletedProcess[str]]


def clean_environment() -> dict[str, str]:
    """This process's environment without sglcore's own variables; the source tree is importable."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SGLCORE_")}
    path = [str(SOURCE), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture
def sglcore() -> Run:
    """Run `python -m sglcore ARGS...` with extra variables; `options` go to the interpreter."""

    def run(*args: str, options: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment()
        extra = variables.pop("PYTHONPATH", None)
        if extra:
            environment["PYTHONPATH"] = os.pathsep.join([extra, environment["PYTHONPATH"]])
        return subprocess.run(
            [sys.executable, *options, "-m", "sglcore", *args],
            capture_output=True,
            text=True,
            env=environment | variables,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def distribution(tmp_path: Path) -> Callable[..., Path]:
    """Make a distribution with entry points, and its module, in a folder that can be put on the path."""

    def make(
        name: str, points: dict[str, dict[str, str]], module: str = "", code: str = "", requires: tuple[str, ...] = ()
    ) -> Path:
        info = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{needs}")
        lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        if module:
            (tmp_path / f"{module}.py").write_text(code)
        return tmp_path

    return make
