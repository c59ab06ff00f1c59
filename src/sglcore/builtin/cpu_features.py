"""Which half types this CPU multiplies natively, read without torch, so that explaining needs none."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# What torch asks for before it uses its AVX-512 kernels.
AVX512 = frozenset({"avx512f", "avx512vl", "avx512bw", "avx512dq", "fma"})
NATIVE = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}


def compute_dtype(stored: str) -> str:
    """`stored` (torch's name) where the CPU multiplies it natively, else float32: emulated half types are slow."""
    return "float32" if stored in NATIVE and not native(stored, cpu_flags()) else stored


def native(name: str, flags: frozenset[str]) -> bool:
    """Whether there are matrix instructions for bfloat16 or float16 that torch may use."""
    allowed = os.environ.get("ATEN_CPU_CAPABILITY", "").lower() not in ("default", "avx2")
    return allowed and flags >= AVX512 and bool(flags & NATIVE[name])


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The kernel's names of the instruction sets; empty where it does not tell (then float32 is computed)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())
