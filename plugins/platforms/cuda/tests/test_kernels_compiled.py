"""Every kernel is built for compute capability 9.0 in bfloat16, without a GPU: it compiles, fits and does not spill."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from sglcore_plugin_cuda.kernels import activation, gemm, norm, penalties, rope, sampling  # noqa: E402
from sglcore_plugin_cuda.kernels.gemm_table import BUCKETS, SHARED_MEMORY, TABLE, GemmConfig, config_for, sums  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SHAPES = [*TABLE, (5120, 2048), (2048, 4096), (151936, 2048), (128256, 4096), (4096, 1024), (1024, 3072), (6144, 1024)]
TYPES = {
    **dict.fromkeys(("x", "weight", "bias", "out", "residual", "gate_up", "q", "k", "q_out", "k_out"), "*bf16"),
    **dict.fromkeys(("cos", "sin", "parts", "best", "logits", "scores", "temperature", "min_p", "rules"), "*fp32"),
    **dict.fromkeys(("seed", "position"), "*i64"),
    **dict.fromkeys(("counters", "where"), "*i32"),
    **dict.fromkeys(("finite", "prompt"), "*u8"),
    "eps": "fp32",
}
ODD = ("rows", "splits", "eps", "half", "heads", "kv_heads", "inner")  # not a multiple of 16


def build(kernel, constants, warps, stages=3, types=None, fused=True):
    """(compiled kernel, registers a thread, bytes of stack a thread)."""
    known = {**TYPES, **(types or {})}
    kinds = {name: "constexpr" if name in constants else known.get(name, "i32") for name in kernel.arg_names}
    attrs = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name not in constants and name not in ODD
    }
    options = {"num_warps": warps, "num_stages": stages, "launch_pdl": bool(constants["PDL"])}
    options["enable_fp_fusion"] = fused
    built = triton.compile(ASTSource(kernel, kinds, constants, attrs), target=HOPPER, options=options)
    return built, *usage(built.asm["cubin"])


def usage(cubin: bytes) -> tuple[int, int]:
    """(registers, bytes of stack) of a thread; the stack is where spilled registers go."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([TOOL, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found, told
    return int(found[1]), int(found[2])


def check(kernel, constants, warps, stages=3, types=None, early=0, fused=True):
    """Build, and hold to what a multiprocessor has; -> the compiled kernel.

    early: loads, of weights, that may stand before the wait for the kernel before this one. fused: a product
    and a sum may be rounded once.
    """
    built, registers, stack = build(kernel, constants, warps, stages, types, fused)
    assert built.metadata.shared <= SHARED_MEMORY
    assert registers * 32 * warps <= 65536
    assert stack <= 32, f"{stack} bytes of registers are spilled"
    if constants["PDL"]:
        before, waits, _ = built.asm["ptx"].partition("griddepcontrol.wait")
        assert waits and before.count("ld.global") <= early, "reads what the kernel before it may not have written"
        assert "st.global" not in before and "cp.async" not in before
    return built


def product(config: GemmConfig, rows: int, out: int, into: int, *, bias: bool = False, pdl: bool = False):
    """The kernel of a config as a launch with so many rows builds it."""
    constants = {"BLOCK_M": config.block_m(rows), "BLOCK_N": config.block_n, "BLOCK_K": config.block_k}
    constants |= {"SPLIT": config.split, "STAGES": config.stages, "HAS_BIAS": bias, "PDL": pdl}
    constants |= {"EVEN": into % (config.block_k * config.split) == 0}
    constants |= {} if bias else {"bias": None}
    constants |= {} if config.split > 1 else {"parts": None, "counters": None}
    return check(gemm._few_rows if config.dot else gemm._one_row, constants, config.warps, config.stages)


def test_products_of_the_table():
    seen = set()
    for out, into in SHAPES:
        for rows in BUCKETS:
            config = config_for(rows, out, into)
            if config is not None:
                seen.add((config, config.block_m(rows), rows, out, into))
    assert seen
    for config, _, rows, out, into in sorted(seen, key=repr):
        built = product(config, rows, out, into)
        assert built.metadata.shared <= config.shared_memory(rows) or config.stages == 1


@pytest.mark.parametrize(
    "config, rows",
    [
        (sums(16, 1024, 8, 4, 2), 1),
        (sums(8, 512, 4, 1), 1),
        (GemmConfig(32, 256, 4, 5, 2), 8),
        (GemmConfig(128, 64, 4, 4, 4), 64),
    ],
)
def test_products_that_split_or_launch_early(config, rows):
    built = product(config, rows, 4096, 14336, bias=True, pdl=True)
    assert "griddepcontrol.wait" in built.asm["ptx"] and "prefetch.global.L2" in built.asm["ptx"]
    assert ("atom" in built.asm["ptx"]) == (config.split > 1)


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("width", [1024, 2048, 4096])
def test_norms(width, pdl):
    warps = 4 if width < 4096 else 16
    check(norm._rms_norm, {"ROWS": 2048 // width or 1, "BLOCK": width, "PDL": pdl}, warps, early=2)
    check(norm._add_rms_norm, {"BLOCK": width, "PDL": pdl}, warps, early=2)


@pytest.mark.parametrize("pdl", [False, True])
def test_the_others(pdl):
    check(norm._rms_norm, {"ROWS": 16, "BLOCK": 128, "PDL": pdl}, 8, early=2)
    check(activation._silu_mul, {"BLOCK": 1024, "PDL": pdl}, 4)
    check(rope._rope, {"HEADS": 16, "HALF": 64, "REST": 0, "PDL": pdl}, 4)
    check(rope._rope, {"HEADS": 16, "HALF": 32, "REST": 64, "PDL": pdl}, 4)
    out = {"out": "*i64"}
    tables = {"places": "*i64", "counts": "*i32", "bias": "*fp32"}
    built = check(
        penalties._penalise, {"BLOCK": penalties.BLOCK, "PDL": pdl}, penalties.WARPS, types=tables, fused=False
    )
    assert "fma.rn.f32" not in built.asm["ptx"] and "div.rn.f32" in built.asm["ptx"]
    check(sampling._argmax_parts, {"BLOCK": sampling.BLOCK, "PDL": pdl}, sampling.WARPS)
    check(sampling._argmax_rows, {"SPLITS": 128, "PDL": pdl}, 1, types=out)
    wide = {"SPLITS": 128, "BLOCK": sampling.WIDE_BLOCK, "PDL": pdl}
    for kind in ("*fp32", "*bf16"):
        check(sampling._draw_parts, {"BLOCK": sampling.BLOCK, "PDL": pdl}, sampling.WARPS, types={"logits": kind})
        built = check(sampling._draw_rows, wide, sampling.WIDE_WARPS, types={**out, "logits": kind})
        assert "div.rn.f32" in built.asm["ptx"] and "lg2.approx" not in built.asm["ptx"]
