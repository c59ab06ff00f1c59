"""The kernels without a GPU: under Triton's interpreter, and built for sm_90; each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(*command: str, **variables: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *command], env=environment | variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_kernels_equal_torch():
    run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_cpu.py")),
        TRITON_INTERPRET="1",
        OMP_NUM_THREADS="1",
    )


def test_kernels_build_for_hopper():
    run(str(HERE / "build_for_hopper.py"))
