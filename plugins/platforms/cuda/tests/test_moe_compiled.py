"""Every configuration of the experts' kernels, compiled for an H200 without one: it builds, and fits."""

from __future__ import annotations

import re
import runpy
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
import triton
from sglcore_plugin_cuda.kernels import moe_align, moe_direct, moe_grouped, moe_route, moe_wide
from sglcore_plugin_cuda.kernels.moe_table import DIRECT, GROUPED, LARGE, WIDE, Choice, Direct, Grouped, Wide
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

if triton.knobs.runtime.interpret:
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

HOPPER = GPUTarget("cuda", 90, 32)
SHARED = 227 * 1024  # bytes a block may take
SPILL = 64  # bytes of stack that are no cause for alarm
HIDDEN, INNER, EXPERTS, TOP = 2048, 768, 128, 8  # Qwen3-30B-A3B
CHOICES = [DIRECT, *(choice for _, choice in GROUPED), LARGE]
TENSORS = {
    **dict.fromkeys(("x", "weight", "out", "inner", "terms", "logits"), "*bf16"),
    **dict.fromkeys(("scale", "weights"), "*fp32"),
    **dict.fromkeys(("experts", "order", "blocks", "counts", "chosen"), "*i32"),
}


@dataclass
class Built:
    """A compiled kernel. shared, stack: bytes."""

    shared: int
    stack: int
    registers: int
    assembly: str


def build(
    kernel: Any,
    constants: dict[str, Any],
    folder: Path,
    *,
    warps: int,
    stages: int = 3,
    pdl: bool = False,
    boxes: dict[str, list[int]] | None = None,
) -> Built:
    """Compile a kernel as a launch with aligned tensors would. boxes: arguments that are descriptors."""
    names = kernel.arg_names
    constants = {**constants, "PDL": pdl}
    types = TENSORS | {name: f"tensordesc<bf16{box}>" for name, box in (boxes or {}).items()}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    pointers = [index for index, name in enumerate(names) if signature[name].startswith("*")]
    aligned = {(index,): [["tt.divisibility", 16]] for index in pointers}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": warps, "num_stages": stages, "launch_pdl": pdl}
    compiled = triton.compile(source, target=HOPPER, options=options)
    (folder / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run([tool, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, check=True)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage.stdout)[1]) for name in ("REG", "STACK"))
    return Built(compiled.metadata.shared, stack, registers, compiled.asm["ptx"])


def grouped(config: Grouped, folder: Path, *, gated: bool, pdl: bool = False) -> Built:
    """The grouped product of the model's sizes."""
    rows, k = (2 * INNER, HIDDEN) if gated else (HIDDEN, INNER)
    constants = {
        "K": k,
        "N": rows,
        "TOP": TOP,
        "GATED": gated,
        "SWAP": config.swap,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "GROUP": config.group,
        "PRECISION": "tf32",
    }
    return build(moe_grouped._grouped, constants, folder, warps=config.warps, stages=config.stages, pdl=pdl)


def wide(config: Wide, folder: Path, *, gated: bool, pdl: bool = False) -> Built:
    """The grouped product by TMA of the model's sizes."""
    constants = {
        "K": HIDDEN if gated else INNER,
        "WIDTH": INNER if gated else HIDDEN,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "GROUP": config.group,
        "PRECISION": "tf32",
    }
    sizes: dict[str, Any] = {"warps": config.warps, "stages": config.stages, "pdl": pdl}
    if gated:
        half = config.block_n // 2
        boxes = {"weight": [2, half, config.block_k], "out": [config.block_m, half]}
        return build(moe_wide._wide_up, constants | {"TOP": TOP}, folder, boxes=boxes, **sizes)
    boxes = {"x": [config.block_m, config.block_k], "weight": [1, config.block_n, config.block_k]}
    constants |= {"STAYS": config.stays, "COUNTED": moe_wide.COUNTED}
    return build(moe_wide._wide_down, constants, folder, boxes=boxes, **sizes)


def direct(choice: Choice, folder: Path, *, up: bool) -> Built:
    """One of the products of single pairs."""
    config = choice.up if up else choice.down
    assert isinstance(config, Direct)
    constants = {"WIDTH": HIDDEN, "INNER": INNER, "TOP": TOP, "ROWS": config.rows, "BLOCK_K": config.block_k}
    if up:
        return build(moe_direct._direct_up, constants | {"STAGES": config.stages}, folder, warps=config.warps)
    return build(moe_direct._direct_down, constants, folder, warps=config.warps)


def fits(built: Built) -> None:
    """Within a block's shared memory, and without values that live in local memory."""
    print(f"shared {built.shared} registers {built.registers} stack {built.stack}")
    assert built.shared <= SHARED, f"{built.shared} bytes of shared memory"
    assert built.stack <= SPILL, f"{built.stack} bytes of stack"


@pytest.mark.parametrize("choice", CHOICES[1:], ids=lambda choice: f"{choice.up.block_m} rows")
def test_grouped_products_build_and_use_the_tensor_cores(choice: Choice, tmp_path: Path) -> None:
    for config, gated in ((choice.up, True), (choice.down, False)):
        assert isinstance(config, Grouped)
        built = grouped(config, tmp_path, gated=gated)
        fits(built)
        assert "wgmma" in built.assembly
        assert "cp.async" in built.assembly, "loads are not pipelined"


def wide_ones() -> list[tuple[Wide, bool]]:
    """The table's, and what `benchmarks/gpu/moe.py` times beside them; whether it is a gate-up product."""
    table = [(config, gated) for _, choice in WIDE for config, gated in ((choice.up, True), (choice.down, False))]
    measured = runpy.run_path(str(Path(__file__).parents[4] / "benchmarks" / "gpu" / "moe.py"))
    candidates = [
        (config, gated) for gated, name in ((True, "WIDE_UP"), (False, "WIDE_DOWN")) for config in measured[name]
    ]
    return list(dict.fromkeys(table + candidates))


@pytest.mark.parametrize(("config", "gated"), wide_ones(), ids=str)
def test_wide_products_build_copy_by_tma_and_do_not_spill(config: Wide, gated: bool, tmp_path: Path) -> None:
    built = wide(config, tmp_path, gated=gated)
    fits(built)
    assert built.stack == 0
    assert "wgmma" in built.assembly
    assert "cp.async.bulk.tensor" in built.assembly
    assert len(set(re.findall(r"wgmma\.wait_group\S* (\d+)", built.assembly))) > 1, "products wait for each other"
    if gated:
        assert "cp.async.cg" in built.assembly, "loads are not pipelined"


def test_direct_products_build(tmp_path: Path) -> None:
    for up in (True, False):
        built = direct(DIRECT, tmp_path, up=up)
        fits(built)
        assert re.search(r"ld\.global\.v4|cp\.async\S* \[[^]]*\], \[[^]]*\], 0x10", built.assembly), "narrow loads"


def test_sorting_routing_and_summing_build(tmp_path: Path) -> None:
    sizes = {"BINS": EXPERTS, "PART": 128, "STEP": moe_align.STEP}
    few = {**sizes, "ALL": moe_align.AT_ONCE[-1], "CHUNK": moe_align.PART, "BLOCK_M": 32, "SHARE": 128}
    many = {**sizes, "ALL": 0, "CHUNK": moe_align.CHUNK, "BLOCK_M": 128, "SHARE": 8}
    fits(build(moe_align._place, few, tmp_path, warps=moe_align.WARPS))
    fits(build(moe_align._place, many, tmp_path, warps=moe_align.WARPS))
    fits(build(moe_align._count, {"CHUNK": moe_align.CHUNK, "BINS": EXPERTS}, tmp_path, warps=moe_align.WARPS))
    rows = {"EXPERTS": EXPERTS, "TOP": TOP, "NORMALISE": True, "BLOCK": 128, "SLOTS": 8}
    for count in (1, moe_route.ROWS):
        fits(build(moe_route._route, rows | {"ROWS": count}, tmp_path, warps=count))
    fits(build(moe_grouped._sum, {"TOP": TOP, "BLOCK": moe_grouped.SUM_BLOCK}, tmp_path, warps=4))


def test_dependent_launches_build(tmp_path: Path) -> None:
    config = GROUPED[0][1].up
    assert isinstance(config, Grouped)
    assert "griddepcontrol.wait" in grouped(config, tmp_path, gated=True, pdl=True).assembly
    for config, gated in ((WIDE[0][1].up, True), (WIDE[0][1].down, False)):
        assert isinstance(config, Wide)
        assert "griddepcontrol.wait" in wide(config, tmp_path, gated=gated, pdl=True).assembly
