"""Fresh interpreters for the checks that need one: nothing loaded yet, the same search path as the test's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

LIMIT = 120.0  # seconds after which a child is given up


def environment() -> dict[str, str]:
    """This process's environment with its own module search path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def run_python(arguments: Sequence[str], *, cwd: str | None = None) -> str:
    """Standard output of `python ARGUMENTS`. Raises AssertionError with what it said where it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"python {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return done.stdout
