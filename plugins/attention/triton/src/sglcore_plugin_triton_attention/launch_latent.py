"""Launches of latent attention: tile, grid and arguments of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton

from sglcore_plugin_triton_attention import tables
from sglcore_plugin_triton_attention.latent import latent_kernel
from sglcore_plugin_triton_attention.plan import GroupPlan
from sglcore_plugin_triton_attention.softmax import LOG2E
from sglcore_plugin_triton_attention.workspace import Workspaces


@dataclass(slots=True)
class LatentCall:
    """One layer's attention, as `LatentBackend.attend_latent` is asked for it."""

    plan: GroupPlan
    q: torch.Tensor  # [tokens, heads, rank], dense within a head
    rope: torch.Tensor  # [tokens, heads, rope_dim], likewise
    pool: torch.Tensor  # [pages, page_size, 1, rank + rope_dim]
    out: torch.Tensor  # like q, contiguous
    scale: float

    def tile(self, tokens: int) -> tables.LatentTile:
        """For rows of up to `tokens` new tokens."""
        heads, rank = self.q.shape[1:]
        return tables.latent_tile(heads, rank, self.q.element_size(), tokens, self.pool.element_size())

    def strides(self) -> tuple[int, ...]:
        """Of queries, pool and page table, in the kernel's order."""
        q, rope = self.q, self.rope
        return (q.stride(0), q.stride(1), rope.stride(0), rope.stride(1), *self.pool.stride()[:2],
                self.plan.table.stride(0))  # fmt: skip

    def flags(self, tile: tables.LatentTile) -> dict[str, Any]:
        """The kernel's constants and options but what decoding and prompts differ in."""
        rank, rope_dim = self.q.shape[2], self.rope.shape[2]
        return {
            "GROUP": self.q.shape[1],
            "HEADS": tile.heads,
            "RANK": rank,
            "ROPE": rope_dim,
            "RANK_WIDE": tables.padded(rank),
            "ROPE_WIDE": tables.padded(rope_dim),
            "PAGE": self.plan.batch.page_size,
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }


def launch_latent(call: LatentCall, workspaces: Workspaces) -> None:
    """All rows: those with one new token cut into parts, the others in blocks of tokens."""
    plan, batch, q = call.plan, call.plan.batch, call.q
    heads, rank = q.shape[1:]
    space = workspaces.get(q.device, call.tile(1).block_m, rank, tables.LATENT_CROWD)
    shared = (batch.q_lens, batch.kv_lens, plan.table, LOG2E * call.scale, *call.strides())
    if plan.singles:
        tile = call.tile(1)
        blocks = triton.cdiv(heads, tile.heads)
        fill, splits = tables.latent_splits(plan.singles * blocks, batch.max_kv_len, tile.block_n)
        latent_kernel[(blocks, plan.singles, splits)](
            *(q, call.rope, call.pool, call.out, *space, batch.kv_lens, *shared, fill, splits),
            **call.flags(tile),
            BLOCKED=False,
            SPLIT=splits > 1,
        )
    if plan.longest:
        tile = call.tile(plan.longest)
        entries = plan.blocks(max(1, tile.block_m // tile.heads))
        latent_kernel[(triton.cdiv(heads, tile.heads), entries.shape[0], 1)](
            *(q, call.rope, call.pool, call.out, *space, entries, *shared, 1, 1),
            **call.flags(tile),
            BLOCKED=True,
            SPLIT=False,
        )
