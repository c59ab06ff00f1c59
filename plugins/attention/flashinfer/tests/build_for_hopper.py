"""Compile the plugin's kernels for compute capability 9.0, without a GPU, and print their figures.

A process of its own: the kernels must have been decorated without the interpreter.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from typing import Any

import triton
from sglcore_plugin_flashinfer import kernels
from sglcore_plugin_flashinfer.latent_kernels import write_latent_kernel
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

SHARED = 227 << 10  # bytes a block may have
POINTERS = {"kv_lens": "*i32", "page_table": "*i32", "indices": "*i32", "slots": "*i64", "cos": "*fp32",
            "sin": "*fp32", "eps": "fp32"}  # fmt: skip
TENSORS = ("k", "v", "keys", "values", "qkv", "q_out", "q_weight", "k_weight", "latent", "rope", "pool")


def build(kernel: Any, dtype: str = "bf16", **constants: Any) -> None:
    """Compile; AssertionError where it spills or needs more shared memory than there is."""
    signature = {}
    for name in kernel.arg_names:
        kind = f"*{dtype}" if name in TENSORS else POINTERS.get(name, "i32")
        signature[name] = "constexpr" if name in constants else kind
    done = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(done.asm["ptx"])
        file.flush()
        command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.findall(r"Used (\d+) registers", told)[0])
    spills = sum(map(int, re.findall(r"(\d+) bytes spill", told)))
    print(f"{kernel.__name__} {constants}: shared {done.metadata.shared}, registers {registers}, spills {spills}")
    assert done.metadata.shared <= SHARED and spills == 0


def main() -> None:
    """Every kernel in the shapes that count."""
    for page in (1, 16):
        build(kernels.fill_indices_kernel, PAGE=page, ROWS=kernels.ROWS_BLOCK, PAGES=kernels.PAGES_BLOCK)
    for kv_heads, dim in ((8, 128), (4, 128), (1, 256), (8, 64)):
        heads = min(kernels.HEADS_BLOCK, kv_heads)
        for dtype in ("bf16", "fp16"):
            build(kernels.write_kv_kernel, dtype, KV_HEADS=kv_heads, DIM=dim, PAGE=16, HEADS=heads, WIDTH=dim)
    for q, kv, dim, half, norm in ((32, 8, 128, 64, False), (32, 4, 128, 64, True), (8, 1, 256, 64, True)):
        rest = dim - 2 * half
        build(kernels.rope_write_kernel, Q=q, KV=kv, DIM=dim, HALF=half, PAGE=16, NORM_Q=norm, NORM_K=norm, KEEP=norm,
              HEADS=kernels.HEADS_BLOCK, WIDTH=half, REST=rest)  # fmt: skip
    build(write_latent_kernel, RANK=512, ROPE=64, PAGE=16, RANK_WIDTH=512, ROPE_WIDTH=64)


if __name__ == "__main__":
    main()
