"""Decoders of the K encodings: 256 elements a block, in groups with their own small scales."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, as float32 [blocks, 1]."""
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def q2_k(blocks: Bytes, out: Floats) -> None:
    """Bytes: 16 of scale and minimum nibbles, 64 of 2-bit values, d, dmin; groups of 16."""
    scales = blocks[:, :16]
    _two_bits(blocks[:, 16:80], out)
    scale = half(blocks, 80) * (scales & 15).astype(np.float32)  # [blocks, 16]
    minimum = half(blocks, 82) * (scales >> 4).astype(np.float32)
    groups = out.reshape(-1, 16, 16)
    groups *= scale[:, :, None]
    groups -= minimum[:, :, None]


def q3_k(blocks: Bytes, out: Floats) -> None:
    """Bytes: 32 of third bits, 64 of 2-bit values, 12 of 6-bit scales, d; groups of 16.

    A clear third bit subtracts 4.
    """
    _two_bits(blocks[:, 32:96], out)
    third = blocks[:, :32]
    lanes = out.reshape(-1, 8, 32)
    for lane in range(8):
        lanes[:, lane] -= 4 - ((third >> lane & 1) << 2)
    scale = half(blocks, 108) * _q3_scales(blocks[:, 96:108])
    groups = out.reshape(-1, 16, 16)
    groups *= scale[:, :, None]


def q4_k(blocks: Bytes, out: Floats) -> None:
    """Bytes: d, dmin, 12 of 6-bit scales and minimums, 128 of nibbles; groups of 32."""
    packed = blocks[:, 16:].reshape(-1, 4, 32)
    lanes = out.reshape(-1, 4, 2, 32)
    lanes[:, :, 0] = packed & 15
    lanes[:, :, 1] = packed >> 4
    _scale_and_shift(blocks, out)


def q5_k(blocks: Bytes, out: Floats) -> None:
    """As q4_k, with the fifth bit of group g in bit g of 32 bytes before the nibbles."""
    fifth = blocks[:, 16:48]
    packed = blocks[:, 48:].reshape(-1, 4, 32)
    lanes = out.reshape(-1, 8, 32)
    for lane in range(8):
        low = packed[:, lane // 2] >> 4 if lane % 2 else packed[:, lane // 2] & 15
        lanes[:, lane] = low | ((fifth >> lane & 1) << 4)
    _scale_and_shift(blocks, out)


def q6_k(blocks: Bytes, out: Floats) -> None:
    """Bytes: 128 of low nibbles, 64 of high bit pairs, 16 int8 scales, d; groups of 16."""
    low = blocks[:, :128].reshape(-1, 2, 2, 32)  # [blocks, half, pair of lanes, 32]
    high = blocks[:, 128:192].reshape(-1, 2, 32)
    lanes = out.reshape(-1, 2, 4, 32)
    for lane in range(4):
        nibble = low[:, :, lane % 2] >> 4 if lane >= 2 else low[:, :, lane % 2] & 15
        lanes[:, :, lane] = nibble | ((high >> (2 * lane) & 3) << 4)
    out -= 32
    scale = half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    groups = out.reshape(-1, 16, 16)
    groups *= scale[:, :, None]


def _two_bits(packed: Bytes, out: Floats) -> None:
    """64 bytes a block; each half of 32 bytes holds four lanes of 32 elements, lowest bits first."""
    packed = packed.reshape(-1, 2, 32)
    lanes = out.reshape(-1, 2, 4, 32)
    for lane in range(4):
        lanes[:, :, lane] = packed >> (2 * lane) & 3


def _q3_scales(packed: Bytes) -> Floats:
    """Sixteen 6-bit scales, minus 32 [blocks, 16]: low nibbles in 8 bytes, high bit pairs in 4."""
    scales = np.empty((len(packed), 16), np.uint8)
    scales[:, :8] = packed[:, :8] & 15
    scales[:, 8:] = packed[:, :8] >> 4
    for quarter in range(4):
        scales[:, 4 * quarter : 4 * quarter + 4] |= (packed[:, 8:] >> (2 * quarter) & 3) << 4
    return scales.astype(np.float32) - 32


def _scale_and_shift(blocks: Bytes, out: Floats) -> None:
    """Apply the eight 6-bit scales and minimums of q4_k and q5_k (bytes 4..15)."""
    first, second, mixed = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, mixed & 15 | first >> 2 & 48], axis=1)  # [blocks, 8]
    minimums = np.concatenate([second & 63, mixed >> 4 | second >> 2 & 48], axis=1)
    scale = half(blocks, 0) * scales.astype(np.float32)
    minimum = half(blocks, 2) * minimums.astype(np.float32)
    groups = out.reshape(-1, 8, 32)
    groups *= scale[:, :, None]
    groups -= minimum[:, :, None]
