"""The write of latents to the cache, in Triton; fit for capture as the others are."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def write_latent_kernel(
    latent,  # [tokens, RANK], any stride of tokens
    rope,  # [tokens, ROPE], likewise
    pool,  # [pages, PAGE, 1, RANK + ROPE]
    slots,  # int64 [tokens]
    latent_token,  # strides, in values
    rope_token,
    page_stride,
    slot_stride,
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    PAGE: tl.constexpr,
    RANK_WIDTH: tl.constexpr,  # powers of two >= RANK, ROPE
    ROPE_WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    place = pool + (slot // PAGE) * page_stride + (slot % PAGE) * slot_stride
    at = tl.arange(0, RANK_WIDTH)
    tl.store(place + at, tl.load(latent + token * latent_token + at, mask=at < RANK), mask=at < RANK)
    at = tl.arange(0, ROPE_WIDTH)
    tl.store(place + RANK + at, tl.load(rope + token * rope_token + at, mask=at < ROPE), mask=at < ROPE)


def write_latent(latent: torch.Tensor, rope: torch.Tensor, pool: torch.Tensor, slots: torch.Tensor) -> None:
    """latent [tokens, rank] and rope [tokens, rope_dim] side by side to their slots of [pages, page_size, 1, both]."""
    (tokens, rank), rope_dim = latent.shape, rope.shape[1]
    write_latent_kernel[(tokens,)](
        *(latent, rope, pool, slots, latent.stride(0), rope.stride(0), pool.stride(0), pool.stride(1)),
        *(rank, rope_dim, pool.shape[1], triton.next_power_of_2(rank), triton.next_power_of_2(rope_dim)),
    )
