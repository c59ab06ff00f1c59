"""Whether FlashInfer is installed and whole, found out without importing it (it imports torch)."""

from __future__ import annotations

import importlib.util
import os
import shutil
from importlib import metadata
from pathlib import Path

PACKAGE = "flashinfer-python"
WANTED = "flashinfer-python>=0.6.14,<0.8"
LATENT_MODULE = "batch_mla_attention"
# What `import flashinfer` itself imports, and the distribution each comes from. The other requirements in its metadata
# (cuda-tile, cutlass-dsl, cudnn-frontend and others) serve what is not used here.
NEEDED = (
    ("tvm_ffi", "'apache-tvm-ffi>=0.1.6,<0.2'"),
    ("pynvml", "nvidia-ml-py"),
    ("filelock", "filelock"),
    ("packaging", "packaging"),
    ("requests", "requests"),
    ("tqdm", "tqdm"),
)


def problem() -> str | None:
    """None, or in a few words what is missing and the line that mends it."""
    if _missing("flashinfer"):
        return f"flashinfer is not installed; pip install '{WANTED}'"
    if wrong := _wrong_version():
        return f"{wrong}; pip install '{WANTED}'"
    for module, wanted in NEEDED:
        if _missing(module):
            return f"the flashinfer that is installed is broken: it imports {module}; pip install {wanted}"
    if _missing("triton"):
        return "triton is not installed; pip install triton"
    if mismatch := _cache_mismatch():
        return mismatch
    return None


def latent_problem() -> str | None:
    """As `problem`, for latent attention, whose module is seldom among those compiled ahead."""
    home = _home("flashinfer_jit_cache")
    ahead = home is not None and any(home.glob(f"**/{LATENT_MODULE}*.so"))
    if (told := problem()) or ahead or compiler() is not None:
        return told
    return (
        "FlashInfer's module for latents is not compiled and there is no nvcc to do so; install the CUDA toolkit and "
        "set CUDA_HOME, or a flashinfer_jit_cache that has it"
    )


def version() -> str | None:
    """The version that is installed, by its metadata or else by its own file; None where neither tells."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return _written(_home("flashinfer"), "_build_meta.py")


def cache_version() -> str | None:
    """The version of flashinfer_jit_cache, whose modules need no compiler; None where there is none."""
    return _written(_home("flashinfer_jit_cache"), "__init__.py")


def compiler() -> str | None:
    """The nvcc that FlashInfer would compile with; None where there is none."""
    for variable in ("FLASHINFER_NVCC", "CUDA_HOME", "CUDA_PATH"):
        given = os.environ.get(variable)
        path = Path(given if variable == "FLASHINFER_NVCC" else f"{given}/bin/nvcc") if given else None
        if path is not None and path.exists():
            return str(path)
    found = shutil.which("nvcc")
    usual = Path("/usr/local/cuda/bin/nvcc")
    return found or (str(usual) if usual.exists() else None)


def _wrong_version() -> str | None:
    from packaging.requirements import Requirement

    there = version()
    if there is None or Requirement(WANTED).specifier.contains(there, prereleases=True):
        return None
    return f"flashinfer {there} is installed, {WANTED} is needed"


def _cache_mismatch() -> str | None:
    """FlashInfer refuses to be imported beside modules of another version."""
    cache, own = cache_version(), version()
    if cache is None or own is None or cache.startswith(own) or os.environ.get("FLASHINFER_DISABLE_VERSION_CHECK"):
        return None
    return f"flashinfer_jit_cache is of version {cache} and flashinfer of {own}; install the same version of both"


def _missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except (ImportError, ValueError):  # a parent package that fails, or a module without a spec
        return True


def _home(module: str) -> Path | None:
    """The folder of a package, which is not imported."""
    found = None if _missing(module) else importlib.util.find_spec(module)
    return Path(found.origin).parent if found is not None and found.origin else None


def _written(folder: Path | None, name: str) -> str | None:
    """What a file of a package gives as `__version__`."""
    try:
        text = (folder / name).read_text(encoding="utf-8") if folder is not None else ""
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("__version__"):
            return line.partition("=")[2].strip().strip("\"'") or None
    return None
