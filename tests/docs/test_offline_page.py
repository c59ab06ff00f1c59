"""The page on engines without a server, executed: all its Python, in order, as one script without a main guard."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sglcore import Engine
from sglcore.native.fields import AskFields
from sglcore.offline.calls import Options
from words import worded

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "offline.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def run(script: Path) -> str:
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_blocks_run_on_a_tiny_model(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    model = worded(tmp_path)
    script.write_text("\n".join(BLOCKS).replace('"demo"', repr(str(model))))
    told = run(script)
    assert "sampling_params.temperature" in told and "was shut down" in told


@pytest.mark.slow
def test_its_blocks_run_on_the_demo_model(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(BLOCKS))
    assert "Paris" in run(script)


def test_it_names_every_argument_and_every_method() -> None:
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S))
    named = {word for code in [*BLOCKS, *spans] for word in re.findall(r"\w+", code)}
    assert set(AskFields.__struct_fields__) - named == set()
    assert set(AskFields.__struct_fields__) - {"sampling_params"} <= set(Options.__annotations__)
    methods = {name for name, _ in inspect.getmembers(Engine, inspect.isfunction) if not name.startswith("_")}
    assert methods - named == set()
