"""Paged attention from torch's operators: exact, on any device, with as few and as large calls as a step allows."""

from __future__ import annotations

import torch

from sglcore.builtin.torch_attention_plan import GroupPlan, Span, plan_group
from sglcore.builtin.torch_attention_step import Step, scatter
from sglcore.contracts.attention import AttentionBatch, KVView
from sglcore.layers.reference import narrowed

Meta = dict[int, GroupPlan]  # attention layer -> its group's plan


class TorchAttention:
    """Implements `contracts.AttentionBackend` and `contracts.LatentBackend`.

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
        if k.dtype != keys.dtype:
            k, v = narrowed(k, keys.dtype), narrowed(v, keys.dtype)
        if isinstance(place, slice):
            keys[place].copy_(k)
            values[place].copy_(v)
        else:
            _movable(keys).index_copy_(0, place, _movable(k))
            _movable(values).index_copy_(0, place, _movable(v))

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
        return self._run(Step(self, *self._by_slot(layer, kv), scale, soft_cap, sinks), q, group, window)

    def write_latent(self, layer: int, latent: torch.Tensor, rope: torch.Tensor, kv: KVView, meta: Meta) -> None:
        """Store latent [tokens, rank] and rope [tokens, rope_dim] side by side at their slots."""
        slots = kv.latent(layer).flatten(0, 2)
        both = narrowed(torch.cat((latent, rope), 1), slots.dtype)
        place = meta[layer].write
        if isinstance(place, slice):
            slots[place].copy_(both)
        else:
            _movable(slots).index_copy_(0, place, _movable(both))

    def attend_latent(
        self,
        layer: int,
        q_latent: torch.Tensor,
        q_rope: torch.Tensor,
        kv: KVView,
        meta: Meta,
        *,
        scale: float,
    ) -> torch.Tensor:
        """q_latent [tokens, heads, rank], q_rope [tokens, heads, rope_dim] -> [tokens, heads, rank].

        One key head that all heads share, whose first `rank` values are the value.
        """
        step = Step(self, kv.latent(layer).flatten(0, 1), None, scale, rank=q_latent.shape[2])
        return self._run(step, torch.cat((q_latent, q_rope), 2), meta[layer], 0)

    def _run(self, step: Step, q: torch.Tensor, group: GroupPlan, window: int) -> torch.Tensor:
        plan = group.window(window)
        if len(plan.decode) == 1 and not plan.prefill:
            chunk = plan.decode[0]
            if chunk.rows == plan.tokens:
                return step.decode(q, chunk)
        return scatter(step, q, plan, window)

    def gather(self, span: Span, keys: torch.Tensor, values: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a span, [rows * length, kv_heads, head_dim]; valid until the next call. Where there are
        no values, the keys twice."""
        if span.index is None:
            k = keys[span.start : span.start + span.length]
            return k, k if values is None else values[span.start : span.start + span.length]
        k = self._copy("k", keys, span.index)
        return k, k if values is None else self._copy("v", values, span.index)

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
        torch.index_select(_movable(source.flatten(1)), 0, index, out=_movable(out))
        return out.view(shape[0], source.shape[1], source.shape[2])


def _movable(x: torch.Tensor) -> torch.Tensor:
    """The same memory in a type that all of torch's indexing takes."""
    return x if x.element_size() > 1 else x.view(torch.uint8)


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
