"""Gumbel noise of (seed, position, token), the numbers of `sglcore.layers.reference.gumbel`: the same to the bit in
their integer part, to the rounding of two logarithms after it."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

# On the card `tl.log` is an approximation whose error shows where the uniform number is close to one; the interpreter
# knows no external functions, and numpy's logarithm serves.
if triton.knobs.runtime.interpret:

    @triton.jit
    def log(x):
        """float32 -> float32, right to the last bit or two."""
        return tl.log(x)

else:

    @triton.jit
    def log(x):
        """float32 -> float32, right to the last bit or two."""
        return libdevice.log(x)


@triton.jit
def _mix(x):
    """uint32 -> well-mixed uint32: two rounds of multiply and xor-shift."""
    x = (x ^ (x >> 16)) * tl.full([], 0x7FEB352D, tl.uint32)
    x = (x ^ (x >> 15)) * tl.full([], 0x846CA68B, tl.uint32)
    return x ^ (x >> 16)


@triton.jit
def noise_key(seed, position):
    """int64 seed and position -> the uint32 that stands for both."""
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    return _mix(low ^ _mix(high) ^ _mix(position.to(tl.uint32) * tl.full([], 0x9E3779B1, tl.uint32)))


@triton.jit
def gumbel(key, token):
    """uint32 key and int32 tokens [n] -> float32 [n]."""
    bits = _mix(_mix(token.to(tl.uint32) ^ tl.full([], 0x5BD1E995, tl.uint32)) ^ key)
    uniform = ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2**-23: strictly inside (0, 1)
    return -log(-log(uniform))
