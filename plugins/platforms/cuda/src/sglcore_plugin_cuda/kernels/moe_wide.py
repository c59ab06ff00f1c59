"""Grouped products of many rows an expert on Hopper's tensor cores, weights by its tensor memory accelerator (TMA).

The gate-up product gathers tokens' rows and writes its result in the order of the sorted pairs, so that the down
product's rows lie side by side and come by TMA too; that one scatters its rows back to their pairs. What a block holds
past its rows is computed like the rest and never read: no row depends on another. Method of the copies: CUDA
programming guide, "Asynchronous data copies using the Tensor Memory Accelerator"; a descriptor is made on the host and
passed by value, so a captured launch keeps its own.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from sglcore_plugin_cuda.kernels.launch import follow, options
from sglcore_plugin_cuda.kernels.moe_grouped import _where
from sglcore_plugin_cuda.kernels.moe_table import Wide, most_blocks

ALIGNED = 16  # bytes that a descriptor's base and rows are a multiple of
MOST = 2**31  # elements that int32 offsets reach
LARGEST_BLOCK = 256  # rows of a block that the check of offsets allows for
COUNTED = 256  # blocks whose rows are looked at together


@triton.jit(do_not_specialize=["most"])
def _wide_up(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    order,
    blocks,
    most,
    K: tl.constexpr,
    WIDTH: tl.constexpr,
    TOP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """silu(gate) * up of rows of x by token. weight: a descriptor of [experts * 2, WIDTH, K], whose box is a tile of
    gate rows above the same tile of up rows, one operand of one product. out: one of [most * BLOCK_M, WIDTH]."""
    follow(PDL)
    HALF: tl.constexpr = BLOCK_N // 2
    block, tile = _where(tl.program_id(0), most, tl.cdiv(WIDTH, HALF), GROUP)
    rows = tl.load(blocks + most + block)
    if rows == 0:
        return
    expert = tl.load(blocks + block)
    lane = tl.arange(0, BLOCK_M)
    token = tl.load(order + block * BLOCK_M + lane, mask=lane < rows, other=0) // TOP
    k = tl.arange(0, BLOCK_K)
    left = x + (token[:, None] * K + k[None, :])
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            a = tl.load(left)
        else:
            a = tl.load(left, mask=(k < K - first)[None, :], other=0.0)
        b = tl.reshape(weight.load([expert * 2, tile * HALF, first]), (BLOCK_N, BLOCK_K))
        total = tl.dot(a, b.T, total, input_precision=PRECISION)
        left += BLOCK_K
    # A thread of the tensor core holds columns of both halves, so that taking them apart moves nothing.
    gate, up = tl.split(tl.permute(tl.reshape(total, (BLOCK_M, 2, HALF)), (0, 2, 1)))
    result = gate / (1.0 + tl.exp(-gate)) * up
    out.store([block * BLOCK_M, tile * HALF], result.to(out.dtype))


@triton.jit
def _down_tile(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    scale,
    order,
    block,
    tile,
    expert,
    rows,
    K: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of `_wide_down`."""
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, K, BLOCK_K):
        a = x.load([block * BLOCK_M, first])
        b = tl.reshape(weight.load([expert, tile * BLOCK_N, first]), (BLOCK_N, BLOCK_K))
        total = tl.dot(a, b.T, total, input_precision=PRECISION)
    lane = tl.arange(0, BLOCK_M)
    pair = tl.load(order + block * BLOCK_M + lane, mask=lane < rows, other=0)
    share = tl.load(scale + pair, mask=lane < rows, other=0.0)
    target = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    result = (total * share[:, None]).to(out.dtype.element_ty)
    mask = (lane < rows)[:, None] & (target < WIDTH)[None, :]
    tl.store(out + (pair[:, None] * WIDTH + target[None, :]), result, mask=mask)


@triton.jit(do_not_specialize=["most"])
def _wide_down(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    scale,
    order,
    blocks,
    most,
    K: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    STAYS: tl.constexpr,
    COUNTED: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """Rows of x times their pair's weight, written by pair. x: a descriptor of [most * BLOCK_M, K]; weight: one of
    [experts, WIDTH, K]. STAYS: each program takes many tiles, and asks for the next one's rows before it writes."""
    follow(PDL)
    TILES: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    if STAYS:
        used = 0
        for first in range(0, most, COUNTED):
            number = first + tl.arange(0, COUNTED)
            filled = tl.load(blocks + most + number, mask=number < most, other=0) > 0
            used += tl.sum(filled.to(tl.int32))
        for work in tl.range(tl.program_id(0), used * TILES, tl.num_programs(0), flatten=True):
            block, tile = _where(work, used, TILES, GROUP)
            expert, rows = tl.load(blocks + block), tl.load(blocks + most + block)
            _down_tile(
                x, weight, out, scale, order, block, tile, expert, rows, K, WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
            )
    else:
        block, tile = _where(tl.program_id(0), most, TILES, GROUP)
        rows = tl.load(blocks + most + block)
        if rows == 0:
            return
        expert = tl.load(blocks + block)
        _down_tile(
            x, weight, out, scale, order, block, tile, expert, rows, K, WIDTH, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
        )


@cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a few where the interpreter plays one."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 3


@cache
def _is_hopper(device: torch.device) -> bool:
    """Whether the device has the tensor cores and the TMA that the tiles are made for."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def suits(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, pairs: int) -> bool:
    """Whether `wide_up` and `wide_down` can do a layer: a Hopper GPU, 16-bit types, rows and matrices that start at
    multiples of 16 bytes, and offsets below 2**31 for so many pairs of token and expert."""
    size = x.element_size()
    if size != 2 or not _is_hopper(x.device):
        return False
    hidden, inner = x.shape[1], down.shape[2]
    if hidden * size % ALIGNED or inner * size % ALIGNED:
        return False
    if gate_up.data_ptr() % ALIGNED or down.data_ptr() % ALIGNED:
        return False
    rows = most_blocks(pairs, gate_up.shape[0], LARGEST_BLOCK) * LARGEST_BLOCK
    return max(pairs * hidden, x.numel(), rows) < MOST


def wide_up(
    x: torch.Tensor,
    weight: torch.Tensor,
    top: int,
    sorted_pairs: tuple[torch.Tensor, torch.Tensor, int],
    config: Wide,
    *,
    pdl: bool = False,
) -> torch.Tensor:
    """x [tokens, K]; weight [experts, 2 * inner, K]; top: experts a token; what `align` gave.

    -> [most * block_m, inner], silu(gate) * up in the order of the sorted pairs; anything past a block's rows.
    """
    order, blocks, most = sorted_pairs
    experts, width, k = weight.shape[0], weight.shape[1] // 2, weight.shape[2]
    out = torch.empty((most * config.block_m, width), dtype=x.dtype, device=x.device)
    half = config.block_n // 2
    single = x.element_size() == 4
    _wide_up[(most * triton.cdiv(width, half),)](
        x,
        TensorDescriptor.from_tensor(weight.view(experts * 2, width, k), [2, half, config.block_k]),
        TensorDescriptor.from_tensor(out, [config.block_m, half]),
        order,
        blocks,
        most,
        K=k,
        WIDTH=width,
        TOP=top,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        GROUP=config.group,
        PRECISION="ieee" if single else "tf32",
        num_stages=config.stages,
        **options(config.warps, pdl),
    )
    return out


def wide_down(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    sorted_pairs: tuple[torch.Tensor, torch.Tensor, int],
    config: Wide,
    *,
    pdl: bool = False,
) -> torch.Tensor:
    """x [most * block_m, K] in the order of the sorted pairs; weight [experts, N, K]; scale float32 [tokens, k]; what
    `align` gave -> [pairs, N], each row times its scale."""
    order, blocks, most = sorted_pairs
    width, k = weight.shape[1], weight.shape[2]
    out = torch.empty((scale.numel(), width), dtype=x.dtype, device=x.device)
    tiles = most * triton.cdiv(width, config.block_n)
    single = x.element_size() == 4
    _wide_down[(min(tiles, _processors(x.device)) if config.stays else tiles,)](
        TensorDescriptor.from_tensor(x, [config.block_m, config.block_k]),
        TensorDescriptor.from_tensor(weight, [1, config.block_n, config.block_k]),
        out,
        scale,
        order,
        blocks,
        most,
        K=k,
        WIDTH=width,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        GROUP=config.group,
        STAYS=config.stays,
        COUNTED=COUNTED,
        PRECISION="ieee" if single else "tf32",
        num_stages=config.stages,
        **options(config.warps, pdl),
    )
    return out
