"""Loads the scripts of benchmarks/gpu as they import one another, and forgets them again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

GPU = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """`script("offline")`: that file as a module."""
    ours = {path.stem for path in GPU.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in ours if name in sys.modules}
    monkeypatch.syspath_prepend(str(GPU))
    yield importlib.import_module
    for name in ours:
        sys.modules.pop(name, None)
    sys.modules.update(before)
