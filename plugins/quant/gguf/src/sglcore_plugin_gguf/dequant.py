"""Decoding of GGML blocks to float32 with numpy, a tile at a time so that a tile stays in cache.

Each decoder takes raw blocks and a float32 destination of the same number of blocks; it rounds where
llama.cpp's reference does, so results are equal bit for bit. numpy releases the GIL inside each
operation, so tiles of different tensors decode in parallel threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sglcore_plugin_gguf import kquants
from sglcore_plugin_gguf.ggml_types import GgmlType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

TILE_ELEMENTS = 1 << 19  # measured: 2 MB of output per numpy call hides the call's own cost


def decode(kind: GgmlType, raw: Bytes, out: Floats) -> None:
    """Decode `raw` [blocks * size] uint8 into `out` [blocks * block] float32. Both contiguous."""
    blocks = raw.reshape(-1, kind.size)
    floats = out.reshape(-1, kind.block)
    step = TILE_ELEMENTS // kind.block
    decoder = DECODERS[kind.name]
    with np.errstate(all="ignore"):  # a NaN or infinite scale passes through as it is
        for start in range(0, len(blocks), step):
            decoder(blocks[start : start + step], floats[start : start + step])


def _f32(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks.view(np.float32)


def _f16(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks.view(np.float16)


def _bf16(blocks: Bytes, out: Floats) -> None:
    bits = out.view(np.uint32)
    bits[...] = blocks.view(np.uint16)
    bits <<= 16


def _nibbles(packed: Bytes, out: Floats) -> None:
    """16 bytes a block: low halves are elements 0..15, high halves 16..31."""
    pair = out.reshape(-1, 2, 16)
    pair[:, 0] = packed & 15
    pair[:, 1] = packed >> 4


def _five_bits(high: Bytes, packed: Bytes, out: Floats) -> None:
    """As `_nibbles`, with the fifth bit of element j in bit j of the 4 bytes `high`."""
    fifth = np.unpackbits(high, axis=1, bitorder="little") << 4  # [blocks, 32]
    pair, fifth = out.reshape(-1, 2, 16), fifth.reshape(-1, 2, 16)
    pair[:, 0] = (packed & 15) | fifth[:, 0]
    pair[:, 1] = (packed >> 4) | fifth[:, 1]


def _q4_0(blocks: Bytes, out: Floats) -> None:
    _nibbles(blocks[:, 2:], out)
    out -= 8
    out *= kquants.half(blocks, 0)


def _q4_1(blocks: Bytes, out: Floats) -> None:
    _nibbles(blocks[:, 4:], out)
    out *= kquants.half(blocks, 0)
    out += kquants.half(blocks, 2)


def _q5_0(blocks: Bytes, out: Floats) -> None:
    _five_bits(blocks[:, 2:6], blocks[:, 6:], out)
    out -= 16
    out *= kquants.half(blocks, 0)


def _q5_1(blocks: Bytes, out: Floats) -> None:
    _five_bits(blocks[:, 4:8], blocks[:, 8:], out)
    out *= kquants.half(blocks, 0)
    out += kquants.half(blocks, 2)


def _q8_0(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks[:, 2:].view(np.int8)
    out *= kquants.half(blocks, 0)


DECODERS: dict[str, Callable[[Bytes, Floats], None]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": kquants.q2_k,
    "Q3_K": kquants.q3_k,
    "Q4_K": kquants.q4_k,
    "Q5_K": kquants.q5_k,
    "Q6_K": kquants.q6_k,
}
