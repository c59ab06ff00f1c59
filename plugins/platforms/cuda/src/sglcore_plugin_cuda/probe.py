"""Whether an NVIDIA GPU can be used from here, found out without torch and without starting the driver."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from pathlib import Path

DEVICES = Path("/dev")


def compute_dtype(stored: str) -> str:
    """The compute type for a checkpoint stored as `stored`: its own half type; bfloat16 for float32 and wider."""
    return stored if stored in ("bfloat16", "float16") else "bfloat16"


def problem() -> str | None:
    """None, or in a few words what is missing and what to do."""
    if not gpu_nodes() and not _library_says_so():
        return "no NVIDIA GPU is visible here (there is no device nvidia0); use a machine with one, or --device cpu"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU; unset it, or use --device cpu"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver's libcuda.so.1 cannot be loaded; install the driver, or start the container with GPUs"
    version = torch_cuda()
    if version == "":
        return "the torch that is installed has no CUDA support; install a CUDA build of torch >= 2.11"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install triton"
    return None


def gpu_nodes(folder: Path = DEVICES) -> list[str]:
    """Device files of GPUs, by name."""
    return sorted(p.name for p in folder.glob("nvidia[0-9]*"))


def _library_says_so() -> bool:
    """WSL has no device files, but its own driver library."""
    return Path("/usr/lib/wsl/lib/libcuda.so.1").exists()


def torch_cuda() -> str | None:
    """The CUDA version torch was built for, "" for a build without, None where there is no torch to ask."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda[^=\n]*=\s*(?:'([\d.]+)'|\"([\d.]+)\"|None)", text, re.MULTILINE)
    return None if match is None else (match.group(1) or match.group(2) or "")
