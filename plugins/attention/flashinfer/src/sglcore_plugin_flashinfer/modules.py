"""FlashInfer's compiled modules: which a variant needs, whether they are there, how long they take to load."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sglcore.errors import PluginError
from sglcore_plugin_flashinfer import probe
from sglcore_plugin_flashinfer.latents import LatentVariant
from sglcore_plugin_flashinfer.numbers import Variant

log = logging.getLogger("sglcore.attention.flashinfer")
AHEAD = "ahead-of-time"
KEPT = "from its cache"
COMPILED = "compiled"
AnyVariant = Variant | LatentVariant


def import_flashinfer() -> Any:
    """The package. Raises PluginError with what its import says, and the remedy."""
    began = time.perf_counter()
    try:
        import flashinfer
    except Exception as error:  # whatever a broken install raises
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(
            f"flashinfer {probe.version() or ''} is installed but cannot be imported: {told}.",
            remedy=f"Mend it with pip install --force-reinstall '{probe.WANTED}', or start with another "
            "--attention-backend.",
        ) from error
    log.info("flashinfer %s imported in %.1f s", flashinfer.__version__, time.perf_counter() - began)
    return flashinfer


def source(flashinfer: Any, kernel: str, variant: AnyVariant) -> str:
    """Where the module of a kernel ("decode", "fa2", "fa3") comes from: AHEAD, KEPT, or COMPILED, then at first use.

    For latents the modules of the same names that serve them.
    """
    try:
        jit = flashinfer.jit
        types = (variant.dtype, variant.kv_dtype, variant.dtype, torch.int32)
        shape = (variant.head_dim, variant.head_dim, 0, bool(variant.window), bool(variant.soft_cap))
        if isinstance(variant, LatentVariant):
            name = jit.get_batch_mla_uri(kernel, *types, variant.rank, variant.rope_dim, False)
        elif kernel == "decode":
            name = jit.get_batch_decode_uri(*types, *shape)
        else:
            name = jit.get_batch_prefill_uri(kernel, *types, *shape, False)
        places = ((AHEAD, jit.env.FLASHINFER_AOT_DIR), (KEPT, jit.env.FLASHINFER_JIT_DIR))
    except (AttributeError, TypeError):  # another version names them otherwise
        return COMPILED
    return next((word for word, folder in places if (Path(folder) / name / f"{name}.so").exists()), COMPILED)


class Loading:
    """Times the first plan with each module, and says in words what keeps one from loading."""

    def __init__(self, flashinfer: Any) -> None:
        self.flashinfer = flashinfer
        self._seen: set[tuple[Any, ...]] = set()

    @contextmanager
    def of(self, kernel: str, variant: AnyVariant) -> Iterator[None]:
        """Around the first plan of a wrapper. Raises PluginError where a module cannot be had."""
        key = (
            type(variant),
            kernel,
            variant.dtype,
            variant.kv_dtype,
            variant.head_dim,
            bool(variant.window),
            bool(variant.soft_cap),
        )
        if key in self._seen:
            yield
            return
        came, began = source(self.flashinfer, kernel, variant), time.perf_counter()
        if came == COMPILED:
            log.info("flashinfer: compiling %s, which may take minutes", _told(kernel, variant))
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise _failed(kernel, variant, came, error) from error
        self._seen.add(key)
        took = time.perf_counter() - began
        log.info("flashinfer: kernels of %s loaded in %.1f s (%s)", _told(kernel, variant), took, came)


def _failed(kernel: str, variant: AnyVariant, came: str, error: Exception) -> PluginError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = next((line for line in lines if "error" in line.lower()), lines[-1])[:300]
    remedy = "Start with another --attention-backend, such as triton."
    if came == COMPILED and probe.compiler() is None:
        remedy = (
            "Compiling needs nvcc: install the CUDA toolkit and set CUDA_HOME, or a flashinfer_jit_cache of this "
            f"version, whose modules are compiled. {remedy}"
        )
    return PluginError(f"flashinfer cannot load its kernels of {_told(kernel, variant)}: {said}.", remedy=remedy)


def _told(kernel: str, variant: AnyVariant) -> str:
    """A module in words."""
    latent = isinstance(variant, LatentVariant)
    words = [
        f"mla {kernel}" if latent else kernel if kernel == "decode" else f"prefill {kernel}",
        str(variant.dtype).removeprefix("torch."),
    ]
    words += [f"head_dim {variant.head_dim}"]
    words += ["window"] if variant.window else []
    words += ["soft cap"] if variant.soft_cap else []
    return " ".join(words)
