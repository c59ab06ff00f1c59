"""`sglcore plugins lock`: the file holds what a start with the same flags would use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sglcore.plugin_lock import read_lock

from .conftest import Run

POINTS = {"sglcore.models.v1": {"Mine": "trap:SPEC"}}
TRAP = "raise SystemExit('imported')\n"


def names(file: Path) -> set[str]:
    return {d.name for d in read_lock(file).distributions}


def test_what_is_installed_is_locked_and_nothing_imported(sglcore: Run, distribution: Callable[..., Path]) -> None:
    path = distribution("dist-a", POINTS, "trap", TRAP)
    file = path / "my.lock"
    done = sglcore("plugins", "lock", "-o", str(file), PYTHONPATH=str(path))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{file}: \d+ distributions, \d+ names, plan [0-9a-f]+\n", done.stdout)
    assert {"sglcore", "dist-a"} <= names(file)
    again = path / "again.lock"
    assert sglcore("plugins", "lock", str(again), PYTHONPATH=str(path)).returncode == 0
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("flags", "variables"),
    [(("--no-plugin", "dist-a"), {}), (("--plugins", "none"), {}), ((), {"SGLCORE_PLUGINS": "none"})],
)
def test_the_selection_is_that_of_a_start(
    sglcore: Run, distribution: Callable[..., Path], flags: tuple[str, ...], variables: dict[str, str]
) -> None:
    path = distribution("dist-a", POINTS, "trap", TRAP)
    file = path / "my.lock"
    assert sglcore("plugins", "lock", "-o", str(file), *flags, PYTHONPATH=str(path), **variables).returncode == 0
    assert "sglcore" in names(file) and "dist-a" not in names(file)


def test_a_lock_file_that_is_asked_for_does_not_keep_it_from_being_written_anew(sglcore: Run, tmp_path: Path) -> None:
    file = tmp_path / "my.lock"
    file.write_text("{}")
    done = sglcore("plugins", "lock", str(file), SGLCORE_REQUIRE_LOCK=str(file))
    assert done.returncode == 0, done.stderr
    assert "sglcore" in names(file)


def test_bad_input(sglcore: Run, tmp_path: Path) -> None:
    for arguments, told in (
        (("a", "-o", "b"), "Two files were named"),
        (("-o", str(tmp_path / "no" / "x")), "cannot be written"),
        (("-o", str(tmp_path / "x"), "--plugins", "no-such"), "not installed"),
    ):
        done = sglcore("plugins", "lock", *arguments)
        assert done.returncode == 2 and told in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
