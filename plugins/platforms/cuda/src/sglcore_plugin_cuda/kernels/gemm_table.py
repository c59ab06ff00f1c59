"""Which kernel multiplies how many rows by which weight: a function of the shape, no torch.

`benchmarks/gpu/gemm.py` times the candidates on a card and prints the lines of TABLE.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # rows; a batch uses the first that holds it
MOST_ROWS = BUCKETS[-1]  # more go to cuBLAS
MOST_TILES = 16384  # tiles of a product that is split
SHARED_MEMORY = 227 * 1024  # bytes a block may have on compute capability 9.0


@dataclass(frozen=True, slots=True)
class GemmConfig:
    """block_n rows of W a program, block_k of their values a step, warps, steps in flight, programs that share a tile.

    dot: tensor cores; without them one row of x at a time, and only one.
    """

    block_n: int
    block_k: int
    warps: int
    stages: int
    split: int = 1
    dot: bool = True

    def block_m(self, rows: int) -> int:
        """Rows of x that the kernel is compiled for; below 16 Triton leaves Hopper's own instructions unused."""
        return max(16, 1 << (rows - 1).bit_length()) if self.dot else 1

    def shared_memory(self, rows: int, item: int = 2) -> int:
        """Bytes of shared memory that the steps in flight take, at most."""
        return self.stages * self.block_k * (self.block_n + self.block_m(rows)) * item

    def problem(self, rows: int, out: int, into: int) -> str | None:
        """Why this cannot multiply `rows` rows by a weight [out, into], or None."""
        if not self.dot and rows != 1:
            return "one row only"
        if self.block_n * (self.block_m(rows) if self.dot else self.block_k) > 256 * 32 * self.warps:
            return "more sums than registers"
        if self.shared_memory(rows) > SHARED_MEMORY:
            return "more shared memory than a block has"
        if self.split > 1 and into < self.split * self.block_k:
            return "a part would have nothing to do"
        if self.split > 1 and out > MOST_TILES * self.block_n:
            return "more tiles than counters"
        return None


def sums(block_n: int, block_k: int, warps: int, stages: int, split: int = 1) -> GemmConfig:
    """For one row: multiplied and summed in float32."""
    return GemmConfig(block_n, block_k, warps, stages, split, dot=False)


# (out, in) -> configs by bucket; None is cuBLAS. What beat it by more than 2 % on an H200 in bfloat16, with torch 2.11
# (CUDA 13.0) and Triton 3.6; the figures are in benchmarks/gpu/gemm.json.
TABLE: dict[tuple[int, int], tuple[GemmConfig | None, ...]] = {
    (6144, 4096): (sums(8, 512, 4, 1), None, None, None, GemmConfig(64, 128, 4, 5), None, None),
    (4096, 4096): (
        sums(8, 512, 4, 4),
        *[GemmConfig(128, 64, 4, 5, 4)] * 2,
        *[GemmConfig(64, 128, 4, 5, 2)] * 2,
        GemmConfig(64, 128, 4, 4, 2),
        None,
    ),
    (28672, 4096): (
        sums(16, 256, 4, 1),
        None,
        *[GemmConfig(128, 128, 8, 4)] * 3,
        None,
        GemmConfig(64, 64, 4, 3),
    ),
    (4096, 14336): (
        sums(16, 1024, 8, 1),
        None,
        None,
        None,
        GemmConfig(32, 256, 4, 5),
        None,
        GemmConfig(64, 128, 4, 4, 2),
    ),
    (5120, 2048): (sums(8, 512, 4, 1), None, None, None, GemmConfig(64, 128, 4, 5), None, None),
    (2048, 4096): (sums(8, 512, 4, 4), *[GemmConfig(64, 128, 4, 4, 4)] * 6),
    (128, 2048): (sums(2, 1024, 4, 1), *[GemmConfig(16, 128, 4, 4, 8)] * 6),
    (151936, 2048): (sums(4, 1024, 4, 4), *[GemmConfig(64, 128, 4, 5)] * 4, None, None),
    (128256, 4096): (
        sums(16, 1024, 8, 4),
        *[GemmConfig(128, 128, 8, 4)] * 4,
        GemmConfig(64, 128, 4, 4),
        GemmConfig(64, 64, 4, 3),
    ),
}


def config_for(rows: int, out: int, into: int) -> GemmConfig | None:
    """The kernel for x [rows, into] and a weight [out, into]; None: cuBLAS.

    A shape that nobody measured has its own kernel for one row only, where it won by the widest margin for all shapes.
    """
    if not 1 <= rows <= MOST_ROWS or into % 16:
        return None
    measured = TABLE.get((out, into))
    if measured is not None:
        return measured[bisect_left(BUCKETS, rows)]
    return one_row(out, into) if rows == 1 else None


def one_row(out: int, into: int) -> GemmConfig | None:
    """For one row and any shape: as the measured ones of like size, or None where the weight is too small to matter."""
    if out * into < 1 << 20 or into < 512:
        return None
    if out >= 16384:
        return sums(16, 256, 4, 3)
    if into >= 4096:
        return sums(16, 1024, 8, 4) if out >= 2048 else sums(8, 512, 4, 4)
    return sums(8, 512, 4, 4)
