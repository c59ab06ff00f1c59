"""Why the kernels cannot run on this machine, told without torch and without waking the device."""

from __future__ import annotations

import ctypes
import os
import shutil
from importlib.util import find_spec


def problem() -> str | None:
    """None, or what is missing (a driver, Triton, a C compiler) and how to get it."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver (libcuda.so.1) here; install NVIDIA's, or give the container the GPU (--gpus all)"
    if find_spec("triton") is None:
        return "Triton is not installed; pip install 'sglcore-plugin-triton-attention[runtime]'"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        return "Triton needs a C compiler once, to build its launcher; apt-get install gcc, or set CC"
    return None
