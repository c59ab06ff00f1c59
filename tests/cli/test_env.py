"""`sglcore env`."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import sglcore as package
from sglcore.cli.env import cpu_model, memory_gib

from .conftest import Run


def test_facts(sglcore: Run, distribution: Callable[..., Path]) -> None:
    path: Path = distribution("dist-a", {"sglcore.models.v1": {"Mine": "trap:SPEC"}})
    facts = json.loads(sglcore("env", "--json", PYTHONPATH=str(path)).stdout)
    assert facts["sglcore"] == package.__version__
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == metadata.version("torch")
    assert facts["numpy"] == metadata.version("numpy")
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert facts["plugins"]["dist-a"] == "1.2"
    assert "sglcore" not in facts["plugins"]


def test_text_has_every_fact_on_a_line(sglcore: Run) -> None:
    facts = json.loads(sglcore("env", "--json").stdout)
    lines = sglcore("env").stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(facts)
    assert lines[0].split() == ["sglcore:", package.__version__]


def test_cpu_model(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Abacus 9000\n")
    assert cpu_model(info) == "Abacus 9000"
    assert cpu_model(tmp_path / "absent") == (platform.processor() or platform.machine())


def test_memory_is_in_gib() -> None:
    found = memory_gib()
    assert found is None or 0.1 < found < 1e6
