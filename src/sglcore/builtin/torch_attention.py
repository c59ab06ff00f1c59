"""Paged attention from torch's operators: exact, on any device, with as few and as large calls as a step allows."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sglcore.builtin.torch_attention_plan import (
    Block,
    DecodeChunk,
    GroupPlan,
    PrefillRow,
    Span,
    WindowPlan,
    plan_group,
)
from sglcore.contracts.attention import AttentionBatch, KVView

Meta = dict[int, GroupPlan]  # attention layer -> its group's plan


class TorchAttention:
    """Implements `contracts.AttentionBackend`.

    Decode rows are gathered into a scratch buffer that all layers share, and attended in one call a portion;
    prompts take one call a block of queries. Grouped heads share their keys without a copy. Scaled dot product
    attention keeps its softmax in float32 for every dtype; soft caps and sinks, which it cannot do, are
    computed step by step in float32.
    """

    def __init__(self) -> None:
        self._slots: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._scratch: dict[tuple[torch.dtype, torch.device, str], torch.Tensor] = {}
        self._triangles: dict[tuple[int, torch.dtype, torch.device], torch.Tensor] = {}

    def plan(self, batches: tuple[AttentionBatch, ...]) -> Meta:
        """One plan a KV group, by the layers that use it."""
        return {layer: plan for batch in batches for plan in (plan_group(batch),) for layer in batch.group.layers}

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: Meta) -> None:
        """Store k, v [tokens, kv_heads, head_dim] at their slots."""
        keys, values = self._by_slot(layer, kv)
        place = meta[layer].write
        if isinstance(place, slice):
            keys[place].copy_(k)
            values[place].copy_(v)
        else:
            if k.dtype != keys.dtype:
                k, v = k.to(keys.dtype), v.to(keys.dtype)
            keys.index_copy_(0, place, k)
            values.index_copy_(0, place, v)

    def _by_slot(self, layer: int, kv: KVView) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values as [slots, kv_heads, head_dim]; the views are kept while the pool is the same."""
        keys, values = kv.layer(layer)
        kept = self._slots.get(layer)
        if kept is None or kept[0] is not keys or kept[1] is not values:
            kept = self._slots[layer] = (keys, values, keys.flatten(0, 1), values.flatten(0, 1))
        return kept[2], kept[3]

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        kv: KVView,
        meta: Meta,
        *,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """q [tokens, heads, head_dim] -> the same shape; contiguous."""
        group = meta[layer]
        window = _narrowest(window, group.batch.group.window)
        plan = group.window(window)
        step = _Step(self, *self._by_slot(layer, kv), scale, soft_cap, sinks)
        if len(plan.decode) == 1 and not plan.prefill:
            chunk = plan.decode[0]
            if chunk.rows == plan.tokens:
                return step.decode(q, chunk)
        return _scatter(step, q, plan, window)

    def gather(self, span: Span, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a span, [rows * length, kv_heads, head_dim]; valid until the next call."""
        if span.index is None:
            return keys[span.start : span.start + span.length], values[span.start : span.start + span.length]
        return self._copy("k", keys, span.index), self._copy("v", values, span.index)

    def triangle(self, rows: int, columns: int, window: int, like: torch.Tensor) -> torch.Tensor:
        """Mask [rows, columns], 0 or -inf: query i sees the keys up to columns - rows + i, `window` of them if not 0.

        All masks are lower right corners of one, kept and grown when needed.
        """
        key = (window, like.dtype, like.device)
        kept = self._triangles.get(key)
        if kept is None or kept.shape[0] < rows or kept.shape[1] < columns:
            height = max(rows, 0 if kept is None else kept.shape[0])
            width = max(columns + columns // 4, 0 if kept is None else kept.shape[1], height)
            kept = self._triangles[key] = _triangle(height, width, window, like)
        return kept[kept.shape[0] - rows :, kept.shape[1] - columns :]

    def _copy(self, name: str, source: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        shape = (index.shape[0], source.shape[1] * source.shape[2])
        key = (source.dtype, source.device, name)
        buffer = self._scratch.get(key)
        size = shape[0] * shape[1]
        if buffer is None or buffer.numel() < size:
            buffer = self._scratch[key] = source.new_empty(size)
        out = buffer[:size].view(shape)
        torch.index_select(source.flatten(1), 0, index, out=out)
        return out.view(shape[0], source.shape[1], source.shape[2])


class _Step:
    """One layer's attention while it is computed."""

    __slots__ = ("backend", "keys", "scale", "sinks", "soft_cap", "values")

    def __init__(
        self,
        backend: TorchAttention,
        keys: torch.Tensor,  # [slots, kv_heads, head_dim]
        values: torch.Tensor,
        scale: float,
        soft_cap: float,
        sinks: torch.Tensor | None,
    ) -> None:
        self.backend = backend
        self.keys = keys
        self.values = values
        self.scale = scale
        self.soft_cap = soft_cap
        self.sinks = sinks

    def decode(self, q: torch.Tensor, chunk: DecodeChunk) -> torch.Tensor:
        """q [rows, heads, dim] of the chunk's rows, one query each -> [rows, heads, dim]."""
        k, v = self._gather(chunk.span, q.dtype)
        k, v = _by_row(k, chunk.rows, chunk.span.length), _by_row(v, chunk.rows, chunk.span.length)
        return self._attend(q.unsqueeze(2), k, v, chunk.mask, False).squeeze(2)

    def prefill(self, q: torch.Tensor, row: PrefillRow, window: int, out: torch.Tensor) -> None:
        """q [count, heads, dim] of one row; writes out [count, heads, dim] block by block."""
        k, v = self._gather(row.span, q.dtype)
        k, v = k.transpose(0, 1).unsqueeze(0), v.transpose(0, 1).unsqueeze(0)  # [1, kv_heads, length, dim]
        wide = q.transpose(0, 1).unsqueeze(0)  # [1, heads, count, dim]
        for block in row.blocks:
            part = self._block(wide[:, :, block.first : block.last], k, v, block, window)
            out[block.first : block.last] = part[0].transpose(0, 1)

    def _gather(self, span: Span, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a span in the compute type, which the pool's need not be."""
        k, v = self.backend.gather(span, self.keys, self.values)
        return (k, v) if k.dtype == dtype else (k.to(dtype), v.to(dtype))

    def _block(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, window: int) -> torch.Tensor:
        count, length = block.last - block.first, block.high - block.low
        plain = not self.soft_cap and self.sinks is None
        mask = None
        if not (block.causal and plain):
            mask = self.backend.triangle(count, length, window, q if plain else q.new_empty(0, dtype=torch.float32))
        k, v = k[:, :, block.low : block.high], v[:, :, block.low : block.high]
        return self._attend(q, k, v, mask, block.causal)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, causal: bool
    ) -> torch.Tensor:
        """q [rows, heads, queries, dim], k, v [rows, kv_heads, length, dim], mask to broadcast over the scores."""
        if self.soft_cap or self.sinks is not None:
            return capped_attention(q, k, v, mask, self.scale, self.soft_cap, self.sinks)
        if mask is not None and mask.dtype != q.dtype:
            mask = mask.to(q.dtype)
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=causal and mask is None, scale=self.scale, enable_gqa=q.shape[1] != k.shape[1]
        )


def _by_row(x: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """[rows * length, kv_heads, dim] seen as [rows, kv_heads, length, dim], in one call instead of two."""
    slot, head, value = x.stride()
    return x.as_strided((rows, x.shape[1], length, x.shape[2]), (length * slot, head, slot, value), x.storage_offset())


def capped_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    soft_cap: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention with scores capped to soft_cap * tanh(score / soft_cap) and a sink logit a head, in float32.

    q [rows, heads, queries, dim], k, v [rows, kv_heads, length, dim], sinks [heads] -> like q.
    """
    rows, heads, queries, dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(rows, kv_heads, heads // kv_heads, queries, dim).float() * scale
    scores = grouped @ k.unsqueeze(2).transpose(-1, -2).float()  # [rows, kv_heads, group, queries, length]
    if soft_cap:
        scores = scores.div_(soft_cap).tanh_().mul_(soft_cap)
    if mask is not None:
        scores = scores + (mask if mask.dim() == 2 else mask.unsqueeze(2))
    if sinks is None:
        weights = torch.softmax(scores, -1)
    else:
        extra = sinks.float().view(1, kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat((scores, extra), -1), -1)[..., :-1]
    return (weights @ v.unsqueeze(2).float()).reshape(rows, heads, queries, dim).to(q.dtype)


def _scatter(step: _Step, q: torch.Tensor, plan: WindowPlan, window: int) -> torch.Tensor:
    """All parts of a mixed step, each written where its tokens stand."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for chunk in plan.decode:
        out[chunk.tokens] = step.decode(q[chunk.tokens], chunk)
    for row in plan.prefill:
        step.prefill(q[row.tokens], row, window, out[row.tokens])
    return out


def _narrowest(asked: int, kept: int) -> int:
    """The window that holds: what the layer asks for and what its cache keeps; 0 means no limit."""
    return min(asked, kept) if asked and kept else asked or kept


def _triangle(rows: int, columns: int, window: int, like: torch.Tensor) -> torch.Tensor:
    distance = torch.arange(rows, device=like.device)[:, None] + (columns - rows)
    distance = distance - torch.arange(columns, device=like.device)  # how far back each key lies
    hidden = distance < 0
    if window:
        hidden |= distance >= window
    return torch.zeros(rows, columns, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
