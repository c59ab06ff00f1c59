"""Every kernel that head size 128 in bfloat16 needs is built for sm_90, without a GPU: it fits, and spills little."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = ("llama", "qwen3-moe", "qwen3-small", "capped", "fp8e4nv", "fp8e5", "wide", "write")
LATENTS = ("latents-16", "latents-32", "latents-128", "latents-fp8", "latents-exact")


@pytest.mark.parametrize("case", (*CASES, *LATENTS))
def test_kernels_build_for_hopper(case):
    script = Path(__file__).parent / "build_for_hopper.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script), case], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
