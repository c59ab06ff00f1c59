"""Small-batch matrix products x W^T that run at the speed of memory.

With few rows a product is the time it takes to read W once. Each program owns BLOCK_N rows of W, as they lie in the
checkpoint, and walks along them; nothing is repacked. One row of x is multiplied and summed in float32 on the ordinary
units; several go through the tensor cores with W as the left operand, so that its long side fills the instruction and
the batch is the short one. Where W has too few rows to occupy the card, the walk is split: SPLIT programs share a tile
and leave float32 partial sums, and whichever ends last adds them in a fixed order, so that results do not depend on
the order of arrival.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglcore_plugin_cuda.kernels.gemm_table import MOST_TILES, GemmConfig
from sglcore_plugin_cuda.kernels.launch import follow


@triton.jit
def _store(  # type: ignore[no-untyped-def]
    total, bias, out, parts, counters, column, row, n_out, rows, SPLIT: tl.constexpr, HAS_BIAS: tl.constexpr
):
    """total float32 [columns, rows], this program's share of a tile -> out, with the other shares and the bias."""
    BLOCK_N: tl.constexpr = total.shape[0]
    BLOCK_M: tl.constexpr = total.shape[1]
    last = True
    if SPLIT > 1:
        tile, tiles = tl.program_id(0), tl.num_programs(0)
        inside = (tl.arange(0, BLOCK_N) * BLOCK_M)[:, None] + tl.arange(0, BLOCK_M)[None, :]
        tl.store(parts + (tl.program_id(1) * tiles + tile).to(tl.int64) * (BLOCK_N * BLOCK_M) + inside, total)
        tl.debug_barrier()  # all threads have stored before one of them says so
        last = tl.atomic_add(counters + tile, 1, sem="acq_rel") == SPLIT - 1
        if last:
            tl.debug_barrier()
            total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
            for part in tl.static_range(SPLIT):
                share = parts + (part * tiles + tile).to(tl.int64) * (BLOCK_N * BLOCK_M) + inside
                total += tl.load(share, cache_modifier=".cg")
            tl.store(counters + tile, 0)  # as the next product expects it
    if last:
        if HAS_BIAS:
            total += tl.load(bias + column, mask=column < n_out, other=0.0).to(tl.float32)[:, None]
        to = out + row[None, :].to(tl.int64) * n_out + column[:, None]
        mask = (row < rows)[None, :] & (column < n_out)[:, None]
        tl.store(to, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _span(n_in, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr):  # type: ignore[no-untyped-def]
    """(first, end) of this program's walk along the inputs."""
    if SPLIT == 1:
        return 0, n_in
    share = tl.cdiv(n_in, SPLIT * BLOCK_K) * BLOCK_K
    first = tl.program_id(1) * share
    return first, tl.minimum(first + share, n_in)


@triton.jit
def _ask(of_row, first, n_in, BLOCK_K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Ask the level-2 cache for the first two steps of weights, 128 bytes a request, and wait for nothing."""
    place = tl.minimum(first + tl.arange(0, 2 * BLOCK_K // 64) * 64, n_in - 1)
    address = (of_row + place[None, :]).to(tl.int64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit(do_not_specialize=["rows", "x_stride"])
def _one_row(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    out,
    parts,
    counters,
    rows,
    n_out,
    n_in,
    x_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    """rows is 1 and BLOCK_M too; STAGES 1 leaves the loads to the registers, more queue them in shared memory."""
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    step = tl.arange(0, BLOCK_K)
    # rows past the last read the last one again: no mask on the stream of weights
    of_row = weight + tl.minimum(column, n_out - 1).to(tl.int64)[:, None] * n_in
    first, end = _span(n_in, BLOCK_K, SPLIT)
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    if PDL:
        _ask(of_row, first, n_in, BLOCK_K)
    follow(PDL)
    for start in tl.range(first, end, BLOCK_K, num_stages=STAGES):
        place = start + step
        if EVEN:
            w = tl.load(of_row + place[None, :], eviction_policy="evict_first")
            value = tl.load(x + place, eviction_policy="evict_last")
        else:
            w = tl.load(of_row + place[None, :], mask=(place < end)[None, :], other=0.0)
            value = tl.load(x + place, mask=place < end, other=0.0)
        total += w.to(tl.float32) * value.to(tl.float32)[None, :]
    summed = tl.sum(total, axis=1)[:, None]
    row = tl.arange(0, BLOCK_M)
    _store(summed, bias, out, parts, counters, column, row, n_out, rows, SPLIT, HAS_BIAS)


@triton.jit(do_not_specialize=["rows"])
def _few_rows(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    out,
    parts,
    counters,
    rows,
    n_out,
    n_in,
    x_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.arange(0, BLOCK_M)
    step = tl.arange(0, BLOCK_K)
    of_row = weight + tl.minimum(column, n_out - 1).to(tl.int64)[:, None] * n_in
    of_x = x + tl.minimum(row, rows - 1)[:, None] * x_stride
    first, end = _span(n_in, BLOCK_K, SPLIT)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    if PDL:
        _ask(of_row, first, n_in, BLOCK_K)
    follow(PDL)
    for start in tl.range(first, end, BLOCK_K, num_stages=STAGES):
        place = start + step
        if EVEN:
            w = tl.load(of_row + place[None, :], eviction_policy="evict_first")
            value = tl.load(of_x + place[None, :], eviction_policy="evict_last")
        else:
            w = tl.load(of_row + place[None, :], mask=(place < end)[None, :], other=0.0)
            value = tl.load(of_x + place[None, :], mask=(place < end)[None, :], other=0.0)
        total = tl.dot(w, tl.trans(value), total)
    _store(total, bias, out, parts, counters, column, row, n_out, rows, SPLIT, HAS_BIAS)


def make_counters(device: torch.device) -> torch.Tensor:
    """int32 [MOST_TILES] of zeros, which every split product on one stream uses and leaves at zero."""
    return torch.zeros(MOST_TILES, dtype=torch.int32, device=device)


def small_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    config: GemmConfig,
    counters: torch.Tensor | None,
    *,
    out: torch.Tensor | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """x [rows <= 64, in], in contiguous; weight [out, in] contiguous; bias [out] -> [rows, out] of the dtype of x.

    counters as `make_counters` gives them, needed where the config splits. out: where the result goes, contiguous; None
    for a new tensor. Sums in float32.
    """
    rows, (n_out, n_in) = x.shape[0], weight.shape
    if out is None:
        out = torch.empty((rows, n_out), dtype=x.dtype, device=x.device)
    block_m = config.block_m(rows)
    tiles = triton.cdiv(n_out, config.block_n)
    parts = None
    if config.split > 1:
        parts = torch.empty(config.split * tiles * config.block_n * block_m, dtype=torch.float32, device=x.device)
    kernel = _few_rows if config.dot else _one_row
    kernel[(tiles, config.split)](
        x,
        weight,
        bias,
        out,
        parts,
        counters if config.split > 1 else None,
        rows,
        n_out,
        n_in,
        x.stride(0),
        BLOCK_M=block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        SPLIT=config.split,
        STAGES=config.stages,
        EVEN=n_in % (config.block_k * config.split) == 0,
        HAS_BIAS=bias is not None,
        PDL=pdl,
        num_warps=config.warps,
        num_stages=config.stages,
        launch_pdl=pdl,
    )
    return out
