"""What a run ran on: the card, its driver, the versions that decide its speed. Nothing here opens the card."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

PACKAGES = ("sglcore", "torch", "triton", "flashinfer-python", "transformers", "vllm", "sglang")


def facts() -> dict[str, str]:
    """name -> text; a package that is not installed is left out."""
    found = {"python": platform.python_version(), **card()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def card() -> dict[str, str]:
    """Names, driver and memory as nvidia-smi tells them; a remark where it does not."""
    names = ("device", "driver", "memory")
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"device": f"unknown ({type(error).__name__}: nvidia-smi did not answer)"}
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines() if line.strip()]
    return {
        name: ", ".join(dict.fromkeys(column)) for name, column in zip(names, zip(*rows, strict=True), strict=False)
    }
