"""What `sglcore doctor --gpu` looks at: driver, cards, torch, Triton, compilers, FlashInfer. Imports no torch itself.

Each library is imported in a process of its own, so that one which crashes is a finding and not the end.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglcore_plugin_cuda import probe

Check = dict[str, str]
OLDEST = (8, 0)  # compute capability that the platform takes
TIMEOUT = 120.0  # seconds for one library
FULL = 0.5  # share of a card's memory below which its free part is worth a word
PROC = Path("/proc/driver/nvidia/version")
QUERY = ("index", "name", "compute_cap", "memory.free", "memory.total", "driver_version")
# Prints one JSON object; run by `_told_by`.
ASK_TORCH = """
import json, torch
found = {"version": torch.__version__, "cuda": torch.version.cuda, "usable": torch.cuda.is_available(), "cards": []}
for i in range(torch.cuda.device_count() if found["usable"] else 0):
    free, total = torch.cuda.mem_get_info(i)
    found["cards"].append({"index": i, "name": torch.cuda.get_device_name(i), "free": free, "total": total,
                           "capability": list(torch.cuda.get_device_capability(i))})
print(json.dumps(found))
"""
ASK_TRITON = "import json, triton; print(json.dumps({'version': triton.__version__}))"
ASK_FLASHINFER = """
import json, flashinfer, tvm_ffi
print(json.dumps({"version": flashinfer.__version__, "tvm_ffi": tvm_ffi.__version__}))
"""


def checks() -> list[Check]:
    """All of them, in the order in which one depends on the other."""
    cards = smi()
    found = [driver(cards), visible()]
    torch = _told_by(ASK_TORCH)
    found += [torch_check(torch), *cards_checks(cards, torch), triton_check(), nvcc(), flashinfer()]
    return found


def driver(cards: list[dict[str, str]] | None) -> Check:
    """The version, from nvidia-smi or from the kernel."""
    version = cards[0]["driver_version"] if cards else kernel_driver()
    if version:
        return _check("driver", "ok", version)
    if probe.gpu_nodes():
        return _check(
            "driver",
            "problem",
            "there are device files of GPUs, but no driver answers",
            "Load the driver (nvidia-smi must work), or start the container with the NVIDIA runtime.",
        )
    return _check(
        "driver",
        "problem",
        "no NVIDIA driver is here (neither nvidia-smi nor /proc/driver/nvidia)",
        "Install the driver, start the container with --gpus all, or serve with --device cpu.",
    )


def kernel_driver(path: Path = PROC) -> str:
    """The version that the kernel module tells; "" where there is none."""
    try:
        match = re.search(r"\b(\d{3,}(?:\.\d+)+)\b", path.read_text(errors="replace"))
    except OSError:
        return ""
    return match[1] if match else ""


def visible() -> Check:
    """What CUDA_VISIBLE_DEVICES leaves."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return _check("CUDA_VISIBLE_DEVICES", "ok", "not set; every GPU is visible")
    if value.strip() in ("", "-1"):
        return _check("CUDA_VISIBLE_DEVICES", "problem", f"{value!r} hides every GPU", "Unset it.")
    return _check("CUDA_VISIBLE_DEVICES", "ok", value)


def torch_check(told: dict[str, Any] | str) -> Check:
    """Whether torch imports, was built for CUDA, and can drive a card."""
    if isinstance(told, str):
        return _check("torch", "problem", told, "Reinstall torch: a CUDA build of 2.11 or later.")
    version = f"{told['version']}, CUDA {told['cuda'] or 'none'}"
    if not told["cuda"]:
        return _check("torch", "problem", f"{version}: a build without CUDA", "Install a CUDA build of torch >= 2.11.")
    if not told["usable"]:
        remedy = "Update the driver, or install the torch build for an older CUDA."
        return _check("torch", "problem", f"{version}: it finds no usable GPU", remedy)
    return _check("torch", "ok", version)


def cards_checks(cards: list[dict[str, str]] | None, told: dict[str, Any] | str) -> list[Check]:
    """One a card: as torch sees them, else as nvidia-smi does."""
    if isinstance(told, dict) and told["cards"]:
        seen = told["cards"]
    else:
        seen = [_from_smi(card) for card in cards or []]
    if not seen:
        return [_check("GPU", "problem", "no GPU is found", "Use a machine with one, or serve with --device cpu.")]
    return [card_check(card) for card in seen]


def card_check(card: dict[str, Any]) -> Check:
    """Name, compute capability and memory; a card that is too old is a problem, a filled one a warning."""
    major, minor = card["capability"]
    gib = f"{card['free'] / 2**30:.1f} of {card['total'] / 2**30:.1f} GiB free"
    what, found = f"GPU {card['index']}", f"{card['name']}, compute capability {major}.{minor}, {gib}"
    if (major, minor) < OLDEST:
        needed = f"{OLDEST[0]}.{OLDEST[1]}"
        return _check(
            what, "problem", found, f"Capability {needed} or later is needed: use a newer GPU, or --device cpu."
        )
    if card["free"] < FULL * card["total"]:
        return _check(what, "warning", found, "Other processes hold the rest: nvidia-smi lists them.")
    return _check(what, "ok", found)


def triton_check() -> Check:
    """The compiler of the platform's kernels."""
    if importlib.util.find_spec("triton") is None:
        return _check("triton", "problem", "not installed", "pip install triton")
    told = _told_by(ASK_TRITON)
    if isinstance(told, str):
        return _check("triton", "problem", told, "pip install --force-reinstall triton")
    return _check("triton", "ok", told["version"])


def nvcc() -> Check:
    """The CUDA compiler, which only kernels written in CUDA C++ need."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [*(f"{home}/bin/nvcc" for home in homes if home), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    path = next((place for place in places if place and Path(place).exists()), None)
    if path is None:
        remedy = "Install the CUDA toolkit and set CUDA_HOME, if FlashInfer is to compile kernels; Triton needs none."
        return _check("nvcc", "warning", "not found", remedy)
    match = re.search(r"release ([\d.]+)", _output([path, "--version"]) or "")
    if match is None:
        return _check("nvcc", "warning", f"{path} does not run", "Reinstall the CUDA toolkit.")
    return _check("nvcc", "ok", f"{match[1]} at {path}")


def flashinfer() -> Check:
    """FlashInfer and tvm-ffi, without which it does not import; both may be left out."""
    if importlib.util.find_spec("flashinfer") is None:
        remedy = "pip install 'flashinfer-python>=0.6.14,<0.8' for its attention; without it Triton's is used."
        return _check("flashinfer", "warning", "not installed", remedy)
    told = _told_by(ASK_FLASHINFER)
    if isinstance(told, str):
        remedy = "pip install --force-reinstall 'flashinfer-python>=0.6.14,<0.8' 'apache-tvm-ffi>=0.1.6,<0.2'"
        return _check("flashinfer", "problem", told, f"{remedy}, or serve with --attention-backend triton.")
    ahead = importlib.util.find_spec("flashinfer_jit_cache") is not None
    modules = "with modules compiled ahead" if ahead else "compiles its modules at first use"
    return _check("flashinfer", "ok", f"{told['version']}, tvm-ffi {told['tvm_ffi']}, {modules}")


def smi(run: Callable[[list[str]], str | None] | None = None) -> list[dict[str, str]] | None:
    """What nvidia-smi tells of each card, by QUERY; None where it is not there or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    told = (run or _output)(command)
    if told is None:
        return None
    rows = [row for row in csv.reader(told.splitlines(), skipinitialspace=True) if len(row) == len(QUERY)]
    return [dict(zip(QUERY, (value.strip() for value in row), strict=True)) for row in rows] or None


def _from_smi(card: dict[str, str]) -> dict[str, Any]:
    """A card as torch would describe it; what nvidia-smi does not know is 0."""
    numbers = [int(part) for part in re.findall(r"\d+", card["compute_cap"])[:2]]
    memory = [card["memory.free"], card["memory.total"]]
    free, total = (int(float(value)) << 20 if re.fullmatch(r"[\d.]+", value) else 0 for value in memory)
    capability = numbers if len(numbers) == 2 else [0, 0]
    return {"index": card["index"], "name": card["name"], "free": free, "total": total, "capability": capability}


def _told_by(code: str) -> dict[str, Any] | str:
    """The JSON that a line of Python prints last, or in words how it failed."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"its import {'takes too long' if isinstance(error, subprocess.TimeoutExpired) else error}"
    lines = [line for line in (done.stderr if done.returncode else done.stdout).splitlines() if line.strip()]
    if done.returncode:
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        return f"its import fails: {lines[-1].strip()[:300] if lines else ended}"
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return "its import says nothing that can be read"
    return found


def _output(command: list[str]) -> str | None:
    """What a command prints; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _check(check: str, state: str, found: str, remedy: str = "") -> Check:
    return {"check": check, "state": state, "found": found, "remedy": remedy}
