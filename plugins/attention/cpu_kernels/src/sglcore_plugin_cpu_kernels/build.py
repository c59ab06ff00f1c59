"""Compile kernels.c once for this machine and load it. No torch here.

The library is kept in the user's cache folder under a name made of the source, the compiler and the CPU, so
another machine sharing the folder does not get code it cannot run.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from sglcore.errors import PluginError

SOURCE = Path(__file__).with_name("kernels.c")
# -ffast-math lets exp and the sums be vectorised; it is left out of the link, where it would switch denormals off
# for the whole process.
COMPILE = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-std=gnu11")
LINK = ("-shared", "-fopenmp")
TIMEOUT = 60.0

N, F, P = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
SIGNATURES = {
    "rms_norm": (None, (P, N, P, P, P, N, N, F)),
    "silu_mul": (None, (P, P, N, N)),
    "rope": (None, (P, N, P, N, P, P, P, P, N, N, N, N, N)),
    "write_kv": (None, (P, N, P, N, P, P, P, N, N)),
    "prefill": (ctypes.c_int, (P, N, P, P, P, N, N, P, N, N, N, N, N, F)),
    "decode": (ctypes.c_int, (P, N, P, P, P, N, P, P, N, N, N, N, N, N, N, F)),
}


def problem() -> str | None:
    """Why the kernels cannot be had here, with the remedy; None if they can. Starts no compiler."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"is built for Linux on x86-64 or aarch64, this is {platform.system()} on {platform.machine()}"
    if compiler() is None and not library_path().exists():
        return "needs a C compiler: install gcc, or set CC"
    return None


def compiler() -> str | None:
    """The C compiler's path: $CC, else cc or gcc."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc"]
    return next((found for name in names if (found := shutil.which(name))), None)


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded kernels, compiled if need be. Raises PluginError with the compiler's complaint."""
    path = library_path()
    if not path.exists():
        _compile(path)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise PluginError(
            f"sglcore-plugin-cpu-kernels: {path} cannot be loaded: {error}.",
            remedy="Delete the file, or start with --attention-backend torch and --plugins without this one.",
        ) from None
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


@functools.cache
def library_path() -> Path:
    """Where the compiled kernels of this source, compiler and CPU are, or will be."""
    what = [SOURCE.read_bytes(), " ".join(COMPILE + LINK).encode(), str(compiler()).encode(), _cpu().encode()]
    key = hashlib.sha256(b"\0".join(what)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sglcore" / "cpu-kernels" / f"kernels-{key}.so"


def _cpu() -> str:
    """The CPU's instruction sets, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())


def _compile(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    cc = compiler()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built, compiled = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        _run([str(cc), *COMPILE, "-c", str(SOURCE), "-o", str(built)])
        _run([str(cc), *LINK, str(built), "-o", str(compiled), "-lm"])
        os.replace(compiled, path)  # whole or not at all, also when two processes build at once


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
        complaint = done.stderr.strip()[-400:] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        complaint = str(error)
    if complaint is not None:
        raise PluginError(
            f"sglcore-plugin-cpu-kernels: {command[0]} does not build the kernels: {complaint}",
            remedy="Mend the compiler, or uninstall the plugin: sglcore runs without it, slower.",
        )
