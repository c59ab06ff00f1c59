"""Which tile serves which shape, and into how many parts a step's keys are split: the numbers to tune on a card.

`stages` counts what the compiler pipelines: page numbers, then keys and values by them, so that two stages are one tile
of keys in flight: 3 for one, 5 for two.

Everything here is a function of numbers that the host knows. `benchmarks/gpu/attention.py` tries the neighbours of each
choice and prints what it finds.
"""

from __future__ import annotations

from typing import NamedTuple

SMS = 132  # multiprocessors of the card that the numbers are for
RESIDENT = 3  # decode programs that one multiprocessor holds at a time
LONG = 8192  # keys from which a row is worth another part even where the card is full
CROWD = 1024  # programs that a decode launch may have beside those that its rows need; bounds the workspace too
MAX_SPLITS = 128
LATENT_RESIDENT = 2  # programs of latent attention that one multiprocessor holds, whose tiles are large
LATENT_CROWD = 528  # as CROWD, for latent attention
AT_ONCE = 48  # parts beyond which merging costs more than the card gains, whatever is idle on it


class DecodeTile(NamedTuple):
    """block_h: heads of a group side by side (at least 16, what a matrix instruction takes); block_n: keys at a time.

    fused: the program that ends last merges a row's parts, instead of a second kernel.
    """

    block_h: int
    block_n: int
    warps: int
    stages: int
    fused: bool = True


class LatentTile(NamedTuple):
    """block_m: heads, or tokens times heads, of a program; heads: of these, those of one token; block_n: latents."""

    block_m: int
    heads: int
    block_n: int
    warps: int
    stages: int


class PrefillTile(NamedTuple):
    """block_m: queries times heads of a group; block_n: keys at a time."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def padded(size: int) -> int:
    """The power of two that holds `size`, at least 16: what a tile's side may be."""
    return max(16, 1 << (size - 1).bit_length())


def decode_tile(group: int, head_dim: int, itemsize: int, programs: int) -> DecodeTile:
    """For `group` query heads a key head, of `head_dim` values; itemsize: bytes of a value in the compute type;
    programs: rows times key heads.

    Measured on an H200: where the rows alone fill the card, one tile of 64 keys in flight a program (256 rows of 1,104
    tokens in 273 us, 4.2 TB/s); else two of 32, which leave room for more programs beside each other.
    """
    block_h = min(64, padded(group))
    row_bytes = padded(head_dim) * itemsize
    if itemsize > 2:  # no matrix instruction: products take registers, and more than this spill
        return DecodeTile(block_h, 32, 8, 3)
    if row_bytes > 256 or programs < CROWD:
        return DecodeTile(block_h, 32, 4, 5)
    return DecodeTile(block_h, 64, 4, 3)


def decode_splits(programs: int, max_kv_len: int, block_n: int) -> tuple[int, int]:
    """(parts that every row is cut into, most parts that a row may have) of a launch with `programs` rows x key heads.

    The first fills the card; the second lets a long row be cut further, by its length, on the device.
    """
    tiles = -(-max_kv_len // block_n)
    fill = max(1, min(RESIDENT * SMS // programs, tiles, AT_ONCE))
    most = max(fill, min(-(-max_kv_len // LONG), CROWD // programs, MAX_SPLITS))
    return fill, most


def prefill_heads(group: int, tokens: int) -> int:
    """Heads of a group that share a tile, a power of two; `tokens`: the longest row's new ones.

    Long rows take as many as divide the group, so that no place is wasted; short ones the whole group, which spares
    reading its keys again.
    """
    even = group & -group
    whole = 1 << (group - 1).bit_length()
    return min(whole, 32) if tokens * even < 64 else min(even, 16)


def prefill_tile(places: int, head_dim: int, itemsize: int) -> PrefillTile:
    """places: the longest row's new tokens times the heads that share a tile."""
    dim = padded(head_dim)
    if itemsize > 2:
        return PrefillTile(32, 16, 8, 2)
    if places <= 16:
        return PrefillTile(16, 64 if dim <= 128 else 32, 4, 5)
    if places <= 64:
        return PrefillTile(64, 64 if dim <= 128 else 32, 4, 3)
    return PrefillTile(128, 128 if dim <= 128 else 64, 8, 3)


def latent_tile(heads: int, rank: int, itemsize: int, tokens: int, kept: int) -> LatentTile:
    """heads: that share the latents; rank: of the latent; tokens: the longest row's new ones, 1 in decoding.

    kept: bytes of a value in the pool; where they are fewer than itemsize, widening takes registers and tiles are
    smaller. A program keeps [block_m, rank] float32 in registers and reads each latent once for all of block_m, so that
    many heads are worth a tile that a whole warp group multiplies at once.
    """
    if itemsize > 2:  # products take registers: the smallest tile
        return LatentTile(16, 16, 16, 8, 2)
    most = 64 if kept == itemsize else 32
    own = min(most, padded(heads))
    block_m = padded(min(most, own * tokens))
    if rank > 256 and block_m == 64:
        return LatentTile(block_m, own, 64, 8, 3)
    return LatentTile(block_m, own, 32, 8 if rank > 256 and block_m > 16 else 4, 5)


def latent_splits(programs: int, max_kv_len: int, block_n: int) -> tuple[int, int]:
    """As `decode_splits`, of a launch with `programs` rows x blocks of heads; LATENT_RESIDENT fit a multiprocessor."""
    tiles = -(-max_kv_len // block_n)
    fill = max(1, min(LATENT_RESIDENT * SMS // programs, tiles, AT_ONCE))
    most = max(fill, min(-(-max_kv_len // LONG), LATENT_CROWD // programs, MAX_SPLITS))
    return fill, most


def write_heads(tokens: int) -> int:
    """Heads that one program of the writing kernels takes: few for few tokens, so that all of the card works."""
    return 4 if tokens <= 64 else 16
