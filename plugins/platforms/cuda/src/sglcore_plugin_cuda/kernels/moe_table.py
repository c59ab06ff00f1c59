"""Which tiles the kernels of a mixture of experts take, by how many rows meet at an expert; imports neither torch nor
triton. `benchmarks/gpu/moe.py --sweep` measures the candidates beside these."""

from __future__ import annotations

from dataclasses import dataclass

DIRECT_PAIRS = 32  # up to so many pairs of token and expert, each pair streams its expert's weights by itself


@dataclass(frozen=True, slots=True)
class Direct:
    """Matrix times vector: `rows` of the weight a program, `block_k` columns at a time."""

    rows: int
    block_k: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Grouped:
    """Tiles of a grouped product: `block_m` rows of one expert by `block_n` rows of its weight.

    group: blocks of rows that share their tiles of the weight through the L2 cache. swap: the weight is the left
    operand, so that the tensor core's 64 rows are the weight's and few tokens fill the other side.
    """

    block_m: int
    block_n: int
    block_k: int
    group: int
    warps: int
    stages: int
    swap: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """Configurations of the gate-up product and of the down product; grouped ones have the same block_m."""

    up: Direct | Grouped
    down: Direct | Grouped


DIRECT = Choice(Direct(8, 1024, 4, 3), Direct(4, 1024, 4, 1))
# (rows of an expert on average, up to, choice)
GROUPED = (
    (10.0, Choice(Grouped(16, 64, 128, 1, 4, 5, True), Grouped(16, 64, 128, 1, 4, 5, True))),
    (24.0, Choice(Grouped(32, 64, 128, 2, 4, 4, True), Grouped(32, 64, 128, 2, 4, 4, True))),
    (200.0, Choice(Grouped(64, 128, 64, 4, 4, 4, False), Grouped(64, 128, 64, 4, 4, 4, False))),
)
LARGE = Choice(Grouped(128, 128, 64, 8, 8, 4, False), Grouped(128, 128, 64, 8, 8, 4, False))


def choose(pairs: int, experts: int) -> Choice:
    """For `pairs` of token and expert over so many experts."""
    if pairs <= DIRECT_PAIRS:
        return DIRECT
    mean = pairs / experts
    return next((choice for most, choice in GROUPED if mean <= most), LARGE)


def most_blocks(pairs: int, experts: int, block_m: int) -> int:
    """Blocks of `block_m` rows that any routing fits in: each expert that is hit fills all of its blocks but one."""
    hit = min(pairs, experts)
    return (pairs + hit * (block_m - 1)) // block_m
