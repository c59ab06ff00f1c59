"""Paged attention for a CPU in C: decode rows over the pages where they lie, prompts in tiles, one row at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from sglcore.contracts.attention import AttentionBatch, KVView
from sglcore_plugin_cpu_kernels.build import library

DIM_STEP = 64  # the compiled prompt kernel takes head sizes that are a multiple of this; torch takes the rest
QUERY_BLOCK = 512  # queries of a prompt attended at once, which bounds the mask


@dataclass(slots=True)
class Prompt:
    """A row with several new tokens: where they stand in the step, and the slots of all its positions."""

    first: int
    last: int
    length: int
    slots: torch.Tensor  # int64 [length]


@dataclass(slots=True)
class Plan:
    """One step of one KV group."""

    batch: AttentionBatch
    decode: np.ndarray  # indices of rows with one new token
    at: torch.Tensor | None  # int64: their tokens; None if they are all tokens of the step, in order
    pages: torch.Tensor  # int32 [decode rows, pages], contiguous
    lengths: torch.Tensor  # int32 [decode rows], contiguous
    longest: int
    prompts: list[Prompt]


class CompiledAttention:
    """Implements `contracts.AttentionBackend` for float32 on a CPU."""

    def __init__(self) -> None:
        kernels = library()
        self._decode = kernels.decode
        self._prefill = kernels.prefill
        self._write = kernels.write_kv

    def plan(self, batches: tuple[AttentionBatch, ...]) -> dict[int, Plan]:
        """One plan a group, by its layers."""
        return {layer: plan for batch in batches for plan in (_plan(batch),) for layer in batch.group.layers}

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: dict[int, Plan]) -> None:
        """Store k, v [tokens, kv_heads, head_dim] at their slots."""
        keys, values = kv.layer(layer)
        slots = meta[layer].batch.slots
        k, v = _by_token(k), _by_token(v)
        width = k.shape[1] * k.shape[2]
        self._write(
            k.data_ptr(),
            k.stride(0),
            v.data_ptr(),
            v.stride(0),
            slots.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            k.shape[0],
            width,
        )

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        kv: KVView,
        meta: dict[int, Plan],
        *,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """q [tokens, heads, head_dim] -> the same shape, contiguous. Soft caps and sinks are not declared."""
        plan = meta[layer]
        keys, values = kv.layer(layer)
        window = _narrowest(window, plan.batch.group.window)
        if plan.at is None and not plan.prompts:
            return self._rows(q, keys, values, plan, scale, window)
        out = q.new_empty(q.shape)
        if len(plan.decode):
            out[plan.at] = self._rows(q[plan.at], keys, values, plan, scale, window)
        attend = self._prompt if q.shape[2] % DIM_STEP == 0 else _attend_prompt
        for prompt in plan.prompts:
            attend(q, keys, values, prompt, scale, window, out)
        return out

    def _prompt(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        prompt: Prompt,
        scale: float,
        window: int,
        out: torch.Tensor,
    ) -> None:
        """One prompt's new tokens over all its positions; writes out[first:last]."""
        q = _by_token(q)
        (_, heads, dim), kv_heads = q.shape, keys.shape[2]
        failed = self._prefill(
            q[prompt.first :].data_ptr(),
            q.stride(0),
            keys.data_ptr(),
            values.data_ptr(),
            prompt.slots.data_ptr(),
            prompt.length,
            prompt.last - prompt.first,
            out[prompt.first :].data_ptr(),
            out.stride(0),
            kv_heads,
            heads // kv_heads,
            dim,
            window,
            scale,
        )
        if failed:
            raise MemoryError(f"no memory for the keys and values of {prompt.length} positions")

    def _rows(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: Plan, scale: float, window: int
    ) -> torch.Tensor:
        q = _by_token(q)
        rows, heads, dim = q.shape
        kv_heads = keys.shape[2]
        out = q.new_empty(rows, heads, dim)
        failed = self._decode(
            q.data_ptr(),
            q.stride(0),
            keys.data_ptr(),
            values.data_ptr(),
            plan.pages.data_ptr(),
            plan.pages.shape[1],
            plan.lengths.data_ptr(),
            out.data_ptr(),
            rows,
            kv_heads,
            heads // kv_heads,
            dim,
            plan.batch.page_size,
            window,
            plan.longest,
            scale,
        )
        if failed:
            raise MemoryError(f"no memory for the scores of {plan.longest} positions")
        return out


def _plan(batch: AttentionBatch) -> Plan:
    counts, lengths = np.asarray(batch.q_lens_host), np.asarray(batch.kv_lens_host)
    ends = np.cumsum(counts)
    decode = np.flatnonzero(counts == 1)
    whole = len(decode) == len(counts)
    index = torch.from_numpy(decode)
    prompts = [
        _prompt(batch, int(r), int(ends[r]), int(counts[r]), int(lengths[r])) for r in np.flatnonzero(counts > 1)
    ]
    return Plan(
        batch=batch,
        decode=decode,
        at=None if whole else torch.from_numpy(ends[decode] - 1),
        pages=(batch.page_table if whole else batch.page_table[index]).contiguous(),
        lengths=torch.from_numpy(lengths[decode].astype(np.int32)),
        longest=int(lengths[decode].max()) if len(decode) else 0,
        prompts=prompts,
    )


def _prompt(batch: AttentionBatch, row: int, end: int, count: int, length: int) -> Prompt:
    pages = batch.page_table[row, : -(-length // batch.page_size)].to(torch.int64)
    slots = (pages[:, None] * batch.page_size + torch.arange(batch.page_size)).flatten()[:length]
    return Prompt(end - count, end, length, slots)


def _attend_prompt(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prompt: Prompt,
    scale: float,
    window: int,
    out: torch.Tensor,
) -> None:
    """One prompt's new tokens over all its positions; writes out[first:last]."""
    k = keys.flatten(0, 1).index_select(0, prompt.slots).transpose(0, 1).unsqueeze(0)  # [1, kv_heads, length, dim]
    v = values.flatten(0, 1).index_select(0, prompt.slots).transpose(0, 1).unsqueeze(0)
    wide = q[prompt.first : prompt.last].transpose(0, 1).unsqueeze(0)  # [1, heads, count, dim]
    count, start = prompt.last - prompt.first, prompt.length - (prompt.last - prompt.first)
    grouped = wide.shape[1] != k.shape[1]
    if not start and (not window or window >= count):
        done = F.scaled_dot_product_attention(wide, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        out[prompt.first : prompt.last] = done[0].transpose(0, 1)
        return
    for low in range(0, count, QUERY_BLOCK):
        high = min(low + QUERY_BLOCK, count)
        seen = start + high
        since = max(0, start + low - window + 1) if window else 0
        mask = _mask(start + low, high - low, since, seen, window)
        part = wide[:, :, low:high]
        done = F.scaled_dot_product_attention(
            part, k[:, :, since:seen], v[:, :, since:seen], mask, scale=scale, enable_gqa=grouped
        )
        out[prompt.first + low : prompt.first + high] = done[0].transpose(0, 1)


def _mask(position: int, queries: int, since: int, seen: int, window: int) -> torch.Tensor:
    """float32 [queries, seen - since]: 0 where query i, at position + i, may look, -inf elsewhere."""
    query = torch.arange(position, position + queries)[:, None]
    key = torch.arange(since, seen)[None, :]
    hidden = key > query
    if window:
        hidden |= key <= query - window
    return torch.zeros(queries, seen - since).masked_fill_(hidden, float("-inf"))


def _by_token(x: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, dim] with the heads of each token side by side, copied only if they are not."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _narrowest(window: int, other: int) -> int:
    """The smaller of two windows, where 0 is none."""
    return min(window, other) if window and other else window or other
