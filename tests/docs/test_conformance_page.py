"""The conformance page, executed: its examples are written out as test files and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sglcore import testing

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "conformance.md").read_text()
QUICK = (
    "not tensor_parallel and not random and not window and not every"  # what is slow runs with the plugins' own tests
)
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of all examples, one file each, outside this repository and without its settings."""
    folder = tmp_path_factory.mktemp("page")
    for number, block in enumerate(BLOCKS):
        (folder / f"test_{number}.py").write_text(block)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-k", QUICK]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def test_every_example_that_names_a_plugin_of_this_repository_runs(report: str):
    for number, block in enumerate(BLOCKS):
        ran = re.search(rf"^PASSED test_{number}\.py::", report, re.M) is not None
        assert ran == ("my_plugin" not in block), block


def test_the_other_examples_are_python_that_runs_too(report: str):
    assert "ERROR" not in report
    assert sum("my_plugin" in block for block in BLOCKS) == 3


def test_every_class_has_its_place_on_the_page():
    classes = [name for name in testing.__all__ if name.endswith("Conformance")]
    assert not [name for name in classes if f"`{name}`" not in PAGE]
    assert not [name for name in re.findall(r"`(\w+Conformance)`", PAGE) if name not in classes]


def test_the_table_of_versions_tells_of_the_newest():
    table = PAGE.partition("## Versions")[2]
    assert max(int(number) for number in re.findall(r"^\| (\d+) \|", table, re.M)) == testing.VERSION
