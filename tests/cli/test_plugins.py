"""`sglcore plugins list`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sglcore.cli.plugins import Row, rows_of, table
from sglcore.plugins import select
from sglcore.registry import Entry

from .conftest import Run


def entry(family: str, name: str, distribution: str = "dist-a", api: int = 1) -> Entry:
    return Entry(family, name, "nowhere:SPEC", distribution, "1.2", api)


def test_rows_tell_what_cannot_be_used() -> None:
    found = [
        entry("models", "Good"),
        entry("models", "New", api=9),
        entry("telepathy", "Odd"),
        entry("policies", "same", "dist-a"),
        entry("policies", "same", "dist-b"),
        entry("policies", "other"),
    ]
    states = {(r.family, r.name, r.distribution): r.state for r in rows_of(select(found, "auto"))}
    assert states["models", "Good", "dist-a"] == "ok"
    assert states["policies", "other", "dist-a"] == "ok"
    assert states["models", "New", "dist-a"].startswith("refused: speaks models API 9, this core reads 1 to 1")
    assert states["telepathy", "Odd", "dist-a"].startswith("refused: unknown plugin family")
    for distribution in ("dist-a", "dist-b"):
        state = states["policies", "same", distribution]
        assert state.startswith("refused: Both dist-")
        assert "dist-a 1.2" in state
        assert "dist-b 1.2" in state


def test_table_is_aligned() -> None:
    rows = [Row("models", "A", 1, "d", "1.0", "ok"), Row("attention", "Longer", 1, "dd", "1.0", "ok")]
    assert table(rows).splitlines() == [
        "FAMILY     NAME    API  DISTRIBUTION  VERSION  STATE",
        "models     A       1    d             1.0      ok",
        "attention  Longer  1    dd            1.0      ok",
    ]


@pytest.mark.parametrize("family", [None, "models"])
def test_listing_imports_no_plugin(sglcore: Run, distribution: Callable[..., Path], family: str | None) -> None:
    code = "raise SystemExit('imported')"
    points = {"sglcore.models.v1": {"Mine": "trap:SPEC"}, "sglcore.models.v9": {"Later": "trap:SPEC"}}
    points["sglcore.hooks.v1"] = {"trap": "trap"}
    path: Path = distribution("dist-a", points, "trap", code)
    done = sglcore("plugins", "list", "--json", *(["--family", family] if family else []), PYTHONPATH=str(path))
    assert done.returncode == 0
    rows = {(r["family"], r["name"]): r for r in json.loads(done.stdout) if r["distribution"] == "dist-a"}
    assert rows["models", "Mine"] == {
        "family": "models",
        "name": "Mine",
        "api": 1,
        "distribution": "dist-a",
        "version": "1.2",
        "state": "ok",
    }
    assert rows["models", "Later"]["state"].startswith("refused: ")
    assert (("hooks", "trap") in rows) is (family is None)
    assert "Mine" in sglcore("plugins", "list", PYTHONPATH=str(path)).stdout


def test_an_unknown_family_is_told(sglcore: Run) -> None:
    done = sglcore("plugins", "list", "--family", "nonsense")
    assert done.returncode == 2
    assert "--family takes one of models, attention" in done.stderr


def test_bare_plugins_shows_help(sglcore: Run) -> None:
    done = sglcore("plugins")
    assert done.returncode == 0
    assert "list" in done.stdout
