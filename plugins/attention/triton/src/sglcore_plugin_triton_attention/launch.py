"""Launches of the attending kernels: tile, grid and arguments of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton

from sglcore_plugin_triton_attention import tables
from sglcore_plugin_triton_attention.decode import decode_kernel, merge_kernel
from sglcore_plugin_triton_attention.plan import GroupPlan
from sglcore_plugin_triton_attention.prefill import prefill_kernel
from sglcore_plugin_triton_attention.softmax import LOG2E
from sglcore_plugin_triton_attention.workspace import Workspaces


@dataclass(slots=True)
class Call:
    """One layer's attention, as `AttentionBackend.attend` is asked for it."""

    plan: GroupPlan
    q: torch.Tensor  # [tokens, heads, dim], dense within a head
    keys: torch.Tensor  # [pages, page_size, kv_heads, dim]
    values: torch.Tensor
    out: torch.Tensor  # like q, contiguous
    scale: float
    window: int
    soft_cap: float
    sinks: torch.Tensor | None

    @property
    def group(self) -> int:
        """Query heads a key head."""
        return int(self.q.shape[1] // self.keys.shape[2])

    def units(self) -> tuple[float, float]:
        """(factor of the raw scores, height of the cap), both in powers of two; see `softmax.capped`."""
        if self.soft_cap:
            return 2 * LOG2E * self.scale / self.soft_cap, LOG2E * self.soft_cap
        return LOG2E * self.scale, 0.0

    def common(self) -> tuple[Any, ...]:
        """Arguments that both kernels take after their own tables, in their order."""
        q = self.q
        strides = (q.stride(0), q.stride(1), *self.keys.stride()[:3], self.plan.table.stride(0))
        return (self.plan.table, q if self.sinks is None else self.sinks, *self.units(), *strides, q.shape[1])

    def flags(self) -> dict[str, Any]:
        """Constants that both kernels take."""
        dim = self.q.shape[2]
        return {
            "GROUP": self.group,
            "DIM": dim,
            "WIDE": tables.padded(dim),
            "PAGE": self.plan.batch.page_size,
            "WINDOW": self.window > 0,
            "CAPPED": self.soft_cap > 0,
            "SINKS": self.sinks is not None,
        }


def launch_decode(call: Call, workspaces: Workspaces) -> None:
    """The leading rows with one token each."""
    batch, rows, q = call.plan.batch, call.plan.singles, call.q
    group, dim = call.group, q.shape[2]
    tile = tables.decode_tile(group, dim, q.element_size(), rows * call.keys.shape[2])
    blocks = call.keys.shape[2] * triton.cdiv(group, tile.block_h)
    seen = min(batch.max_kv_len, call.window + tile.block_n) if call.window else batch.max_kv_len
    fill, splits = tables.decode_splits(rows * blocks, seen, tile.block_n)
    space = workspaces.get(q.device, group, dim)
    flags = call.flags()
    decode_kernel[(blocks, rows, splits)](
        q,
        call.keys,
        call.values,
        call.out,
        *space,
        batch.kv_lens,
        *call.common(),
        call.window,
        fill,
        splits,
        **flags,
        BLOCK_H=tile.block_h,
        BLOCK_N=tile.block_n,
        SPLIT=splits > 1,
        FUSED=tile.fused,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    if splits > 1 and not tile.fused:
        shape = {name: flags[name] for name in ("GROUP", "DIM", "WIDE", "WINDOW", "SINKS")}
        sinks = q if call.sinks is None else call.sinks
        merge_kernel[(blocks, rows)](
            *space[:2],
            call.out,
            batch.kv_lens,
            sinks,
            q.shape[1],
            call.window,
            fill,
            splits,
            **shape,
            BLOCK_H=tile.block_h,
            BLOCK_N=tile.block_n,
        )


def launch_prefill(call: Call) -> None:
    """The rows that `launch_decode` leaves."""
    batch, q, longest = call.plan.batch, call.q, call.plan.longest
    heads = tables.prefill_heads(call.group, longest)
    tile = tables.prefill_tile(longest * heads, q.shape[2], q.element_size())
    blocks = call.plan.blocks(max(1, tile.block_m // heads))
    prefill_kernel[(call.keys.shape[2] * triton.cdiv(call.group, heads), blocks.shape[0])](
        q,
        call.keys,
        call.values,
        call.out,
        blocks,
        batch.q_lens,
        batch.kv_lens,
        *call.common(),
        call.window,
        **call.flags(),
        HEADS=heads,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
