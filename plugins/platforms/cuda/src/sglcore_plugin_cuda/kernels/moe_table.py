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
class Wide:
    """Tiles of a grouped product of many rows an expert, its matrices by TMA; `block_m` to `stages` as in `Grouped`.

    stays: a program stays on its multiprocessor and takes many tiles; of the down product alone.
    """

    block_m: int
    block_n: int
    block_k: int
    group: int
    warps: int
    stages: int
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Configurations of the gate-up and of the down product: of one kind; all but `Direct` with the same block_m."""

    up: Direct | Grouped | Wide
    down: Direct | Grouped | Wide


# What was fastest on an H200 in bfloat16 for 128 experts of 2,048 by 768, 8 a token (torch 2.11, Triton 3.6), with 1,
# 16, 64, 256, 2,048 and 8,192 tokens.
DIRECT = Choice(Direct(4, 1024, 4, 1), Direct(4, 512, 2, 1))
# (rows of an expert on average, up to, choice)
GROUPED = (
    (2.0, Choice(Grouped(16, 64, 64, 4, 8, 5, True), Grouped(16, 128, 64, 1, 8, 3, True))),
    (10.0, Choice(Grouped(16, 128, 128, 1, 4, 5, True), Grouped(16, 128, 64, 1, 8, 3, True))),
    (24.0, Choice(Grouped(16, 128, 64, 4, 8, 3, True), Grouped(16, 128, 64, 4, 8, 3, True))),
    (200.0, Choice(Grouped(64, 128, 64, 1, 8, 4, False), Grouped(64, 256, 64, 1, 4, 3, False))),
)
LARGE = Choice(Grouped(64, 128, 64, 8, 8, 3, False), Grouped(64, 256, 64, 1, 4, 4, False))


# From so many rows of an expert on, where a layer suits them: tiles that read less from the L2 cache for each product
# (128 by 256), unless an expert's last block of 128 rows would stay empty too often.
WIDE = (
    (96.0, Choice(Wide(128, 256, 64, 8, 8, 4), Wide(128, 256, 64, 4, 8, 3, True))),
    (24.0, Choice(Wide(64, 256, 64, 4, 4, 4), Wide(64, 128, 64, 4, 4, 3))),
)


def choose(pairs: int, experts: int, *, wide: bool = False) -> Choice:
    """For `pairs` of token and expert over so many experts. wide: whether the layer suits `Wide`."""
    if pairs <= DIRECT_PAIRS:
        return DIRECT
    mean = pairs / experts
    if wide:
        for least, choice in WIDE:
            if mean >= least:
                return choice
    return next((choice for most, choice in GROUPED if mean <= most), LARGE)


def most_blocks(pairs: int, experts: int, block_m: int) -> int:
    """Blocks of `block_m` rows that any routing fits in: each expert that is hit fills all of its blocks but one."""
    hit = min(pairs, experts)
    return (pairs + hit * (block_m - 1)) // block_m
