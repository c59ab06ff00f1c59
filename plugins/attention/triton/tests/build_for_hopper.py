"""Compile the kernels of a case for compute capability 9.0 and hold their figures against the card's limits.

    python build_for_hopper.py llama

A process of its own: the kernels must have been decorated without the interpreter.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from typing import Any

import triton
from sglcore_plugin_triton_attention import tables
from sglcore_plugin_triton_attention.decode import decode_kernel, merge_kernel
from sglcore_plugin_triton_attention.latent import latent_kernel, latent_write_kernel
from sglcore_plugin_triton_attention.prefill import prefill_kernel
from sglcore_plugin_triton_attention.write import rope_write_kernel, write_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)
SHARED = 227 << 10  # bytes a block may have
SPILLS = 64  # bytes a thread may lose to memory

POINTERS = {"q_rope": "*{t}", "latent": "*{t}", "rope": "*{t}", "pool": "*{c}",
            "q": "*{t}", "k": "*{t}", "v": "*{t}", "out": "*{t}", "qkv": "*{t}", "queries": "*{t}", "q_norm": "*{t}",
            "k_norm": "*{t}", "sinks": "*{t}", "keys": "*{c}", "values": "*{c}", "partial": "*fp32", "weight": "*fp32",
            "cos": "*fp32", "sin": "*fp32", "arrived": "*i32", "kv_lens": "*i32", "q_lens": "*i32", "blocks": "*i32",
            "page_table": "*i32", "slots": "*i64", "unit": "fp32", "outer": "fp32", "eps": "fp32"}  # fmt: skip
UNALIGNED = ("kv_heads", "heads", "table_stride", "window", "fill", "splits")  # other numbers divide by 16


def build(kernel: Any, constants: dict[str, Any], dtype: str, cache: str, warps: int = 4, stages: int = 3) -> None:
    """Compile, print the figures, and raise AssertionError where they are out of bounds."""
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else POINTERS.get(n, "i32").format(t=dtype, c=cache) for n in names}
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if n not in constants and n not in UNALIGNED and signature[n] not in ("fp32",)
    }
    source = ASTSource(kernel, signature, constants, attrs)
    options = {"num_warps": warps, "num_stages": stages}
    done = triton.compile(source, target=HOPPER, options=options)
    registers, spills = figures(done.asm["ptx"])
    matrix = sorted(set(re.findall(r"\b(?:wgmma\.mma_async|mma)\.sync\.aligned\.\w+", done.asm["ptx"])))
    print(f"{kernel.__name__} {constants} warps {warps} stages {stages}: shared {done.metadata.shared}, "
          f"registers {registers}, spills {spills}, {matrix}")  # fmt: skip
    assert done.metadata.shared <= SHARED, "too much shared memory"
    assert spills <= SPILLS, "too many spills"


def figures(ptx: str) -> tuple[int, int]:
    """(registers, bytes spilled) that ptxas tells."""
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", told)
    spills = sum(map(int, re.findall(r"(\d+) bytes spill stores", told)))
    return int(registers.group(1)) if registers else -1, spills


def attend(group: int, dim: int, page: int, dtype: str = "bf16", cache: str = "", **flags: bool) -> None:
    """Decode with and without parts, the merge, and prefill with tiles for short and long chunks."""
    shape = {"GROUP": group, "DIM": dim, "WIDE": tables.padded(dim)}
    marks = {"WINDOW": False, "CAPPED": False, "SINKS": False, **flags}
    cache, size = cache or dtype, 4 if dtype == "fp32" else 2
    for programs in (1, tables.CROWD):
        tile = tables.decode_tile(group, dim, size, programs)
        own = {"BLOCK_H": tile.block_h, "BLOCK_N": tile.block_n}
        for split in (False, True):
            constants = {**shape, **marks, **own, "PAGE": page, "SPLIT": split, "FUSED": tile.fused}
            build(decode_kernel, constants, dtype, cache, tile.warps, tile.stages)
    merge = {**shape, **own, "WINDOW": marks["WINDOW"], "SINKS": marks["SINKS"]}
    build(merge_kernel, merge, dtype, cache)
    for tokens in (2, 8, 4096):
        heads = tables.prefill_heads(group, tokens)
        part = tables.prefill_tile(tokens * heads, dim, size)
        constants = {**shape, **marks, "PAGE": page, "HEADS": heads, "BLOCK_M": part.block_m, "BLOCK_N": part.block_n}
        build(prefill_kernel, constants, dtype, cache, part.warps, part.stages)


def write(cache: str = "bf16") -> None:
    """The writing kernels, for few tokens and many."""
    for heads in (4, 16):
        build(write_kernel, {"DIM": 128, "WIDE": 128, "PAGE": 16, "HEADS": heads}, "bf16", cache)
        for half, norm in ((64, False), (64, True), (32, False)):
            rope = {"DIM": 128, "FULL": 128, "HALF": half, "WIDE": half, "REST": 128 - 2 * half, "PAGE": 16,
                    "HEADS": heads, "Q_NORM": norm, "K_NORM": norm}  # fmt: skip
            build(rope_write_kernel, rope, "bf16", cache)


def latents(heads: int, dtype: str = "bf16", cache: str = "") -> None:
    """Latents of DeepSeek's size: decode with and without parts, short chunks and long prompts, and the write."""
    shape = {"RANK": 512, "ROPE": 64, "RANK_WIDE": 512, "ROPE_WIDE": 64, "PAGE": 16}
    cache, size = cache or dtype, 4 if dtype == "fp32" else 2
    for tokens, split in ((1, False), (1, True), (2, False), (4096, False)):
        tile = tables.latent_tile(heads, 512, size, tokens, 1 if cache.startswith("fp8") else size)
        own = {"GROUP": heads, "HEADS": tile.heads, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}
        marks = {"BLOCKED": tokens > 1, "SPLIT": split}
        build(latent_kernel, {**shape, **own, **marks}, dtype, cache, tile.warps, tile.stages)
    build(latent_write_kernel, shape, dtype, cache)


def run_latents(case: str) -> None:
    """By the number of heads, or by how values are kept."""
    if case == "fp8":
        latents(16, cache="fp8e4nv")
        latents(128, cache="fp8e4nv")
    elif case == "exact":
        latents(16, dtype="fp32")
    else:
        latents(int(case))


def run(case: str) -> None:
    """All builds of a case."""
    if case.startswith("latents"):
        run_latents(case.removeprefix("latents-"))
    elif case == "llama":
        attend(4, 128, 16)
    elif case == "qwen3-moe":
        attend(8, 128, 16)
    elif case == "qwen3-small":
        attend(2, 128, 1)
    elif case == "capped":
        attend(4, 128, 16, WINDOW=True, CAPPED=True, SINKS=True)
    elif case in ("fp8e4nv", "fp8e5"):
        attend(4, 128, 16, cache=case)
        write(case)
    elif case == "wide":
        attend(4, 256, 16)
        attend(4, 192, 16, dtype="fp32")
        attend(4, 128, 16, dtype="fp32")
    else:
        write()


if __name__ == "__main__":
    run(sys.argv[1])
