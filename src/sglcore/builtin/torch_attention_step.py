"""One layer's attention over one step, of torch's operators: portions of decoding rows, blocks of prompts."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from sglcore.builtin.torch_attention_plan import Block, DecodeChunk, PrefillRow, Span, WindowPlan


class Scratch(Protocol):
    """What a step takes from the backend: memory that all layers and steps share."""

    def gather(self, span: Span, keys: torch.Tensor, values: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TorchAttention`."""
        ...

    def triangle(self, rows: int, columns: int, window: int, like: torch.Tensor) -> torch.Tensor:
        """See `TorchAttention`."""
        ...


class Step:
    """One layer's attention while it is computed."""

    __slots__ = ("backend", "keys", "rank", "scale", "sinks", "soft_cap", "values")

    def __init__(
        self,
        backend: Scratch,
        keys: torch.Tensor,  # [slots, kv_heads, head_dim]
        values: torch.Tensor | None,
        scale: float,
        soft_cap: float = 0.0,
        sinks: torch.Tensor | None = None,
        rank: int = 0,
    ) -> None:
        """values None: the first `rank` numbers of the keys are the values, as a latent's are."""
        self.backend = backend
        self.keys = keys
        self.values = values
        self.scale = scale
        self.soft_cap = soft_cap
        self.rank = rank
        self.sinks = sinks

    def decode(self, q: torch.Tensor, chunk: DecodeChunk) -> torch.Tensor:
        """q [rows, heads, dim] of the chunk's rows, one query each -> [rows, heads, dim of the values]."""
        k, v = self._gather(chunk.span, q.dtype)
        k, v = _by_row(k, chunk.rows, chunk.span.length), _by_row(v, chunk.rows, chunk.span.length)
        return self._attend(q.unsqueeze(2), k, v, chunk.mask, False).squeeze(2)

    def prefill(self, q: torch.Tensor, row: PrefillRow, window: int, out: torch.Tensor) -> None:
        """q [count, heads, dim] of one row; writes out [count, heads, dim of the values] block by block."""
        k, v = self._gather(row.span, q.dtype)
        k, v = k.transpose(0, 1).unsqueeze(0), v.transpose(0, 1).unsqueeze(0)  # [1, kv_heads, length, dim]
        wide = q.transpose(0, 1).unsqueeze(0)  # [1, heads, count, dim]
        for block in row.blocks:
            part = self._block(wide[:, :, block.first : block.last], k, v, block, window)
            out[block.first : block.last] = part[0].transpose(0, 1)

    def _gather(self, span: Span, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a span in the compute type, which the pool's need not be."""
        if self.values is None:
            k = self.backend.gather(span, self.keys, None)[0].to(dtype)
            return k, k[..., : self.rank]
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

    q [rows, heads, queries, dim], k, v [rows, kv_heads, length, dim], sinks [heads] -> as q, of the values' dim.
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
    return (weights @ v.unsqueeze(2).float()).reshape(rows, heads, queries, -1).to(q.dtype)


def scatter(step: Step, q: torch.Tensor, plan: WindowPlan, window: int) -> torch.Tensor:
    """All parts of a mixed step, each written where its tokens stand."""
    out = q.new_empty(*q.shape[:-1], step.rank or q.shape[-1])
    for chunk in plan.decode:
        out[chunk.tokens] = step.decode(q[chunk.tokens], chunk)
    for row in plan.prefill:
        step.prefill(q[row.tokens], row, window, out[row.tokens])
    return out
