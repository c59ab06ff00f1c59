"""The backend: chooses tiles by shape and launches the kernels."""

from __future__ import annotations

import torch
import triton

from sglcore.contracts.attention import AttentionBatch, KVView
from sglcore_plugin_triton_attention import tables
from sglcore_plugin_triton_attention.latent import latent_write_kernel
from sglcore_plugin_triton_attention.launch import Call, launch_decode, launch_prefill
from sglcore_plugin_triton_attention.launch_latent import LatentCall, launch_latent
from sglcore_plugin_triton_attention.plan import GroupPlan, plan_group
from sglcore_plugin_triton_attention.workspace import Workspaces
from sglcore_plugin_triton_attention.write import rope_write_kernel, write_kernel

Meta = dict[int, GroupPlan]  # attention layer -> its group's plan


class TritonAttention:
    """Implements `contracts.AttentionBackend`, `contracts.RopeWriter` and `contracts.LatentBackend`.

    Its kernels read nothing but the tensors of the batch, so that a captured step of one token a row stays true for
    whatever stands in them at the replay. Scores and softmax are in float32.
    """

    def __init__(self) -> None:
        self.workspaces = Workspaces()

    def plan(self, batches: tuple[AttentionBatch, ...]) -> Meta:
        """One plan a KV group, by the layers that use it."""
        return {layer: plan for batch in batches for plan in (plan_group(batch),) for layer in batch.group.layers}

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: Meta) -> None:
        """Store k, v [tokens, kv_heads, head_dim] at their slots."""
        keys, values = _pool(kv, layer)
        (tokens, kv_heads, dim), batch = k.shape, meta[layer].batch
        if not tokens:
            return
        k, v = _dense(k), _dense(v)
        heads = min(tables.write_heads(tokens), triton.next_power_of_2(kv_heads))
        write_kernel[(tokens, triton.cdiv(kv_heads, heads))](
            k,
            v,
            keys,
            values,
            batch.slots,
            k.stride(0),
            k.stride(1),
            v.stride(0),
            v.stride(1),
            *keys.stride()[:3],
            kv_heads,
            DIM=dim,
            WIDE=tables.padded(dim),
            PAGE=batch.page_size,
            HEADS=heads,
        )

    def rope_write(
        self,
        layer: int,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        heads: int,
        kv: KVView,
        meta: Meta,
        *,
        q_norm: torch.Tensor | None = None,
        k_norm: torch.Tensor | None = None,
        eps: float = 0.0,
    ) -> torch.Tensor:
        """Norm, rotate and store in one launch; qkv [tokens, heads + 2 kv_heads, head_dim] -> queries, contiguous."""
        keys, values = _pool(kv, layer)
        tokens, all_heads, dim = qkv.shape
        kv_heads, half = (all_heads - heads) // 2, cos.shape[1]
        if qkv.stride(1) != dim or qkv.stride(2) != 1:
            qkv = qkv.contiguous()
        queries = qkv.new_empty((tokens, heads, dim))
        if not tokens:
            return queries
        block = min(tables.write_heads(tokens), triton.next_power_of_2(heads))
        rest = dim - 2 * half
        rope_write_kernel[(tokens, triton.cdiv(heads, block) + 2 * triton.cdiv(kv_heads, block))](
            qkv,
            queries,
            keys,
            values,
            meta[layer].batch.slots,
            cos,
            sin,
            qkv if q_norm is None else q_norm,
            qkv if k_norm is None else k_norm,
            float(eps),
            qkv.stride(0),
            cos.stride(0),
            *keys.stride()[:3],
            heads,
            kv_heads,
            DIM=dim,
            FULL=triton.next_power_of_2(dim),
            HALF=half,
            WIDE=triton.next_power_of_2(half),
            REST=triton.next_power_of_2(rest) if rest else 0,
            PAGE=meta[layer].batch.page_size,
            HEADS=block,
            Q_NORM=q_norm is not None,
            K_NORM=k_norm is not None,
        )
        return queries

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
        """q [tokens, heads, head_dim] -> the same shape, contiguous. Raises ValueError for a scale of 0 or less."""
        _need_positive(scale)
        plan = meta[layer]
        keys, values = _pool(kv, layer)
        q = _dense(q)
        out = q.new_empty(q.shape)
        window = _narrowest(window, plan.batch.group.window)
        call = Call(plan, q, keys, values, out, scale, window, soft_cap, sinks)
        if plan.singles:
            launch_decode(call, self.workspaces)
        if plan.longest:
            launch_prefill(call)
        return out

    def write_latent(self, layer: int, latent: torch.Tensor, rope: torch.Tensor, kv: KVView, meta: Meta) -> None:
        """Store latent [tokens, rank] and rope [tokens, rope_dim] side by side at their slots, in one launch."""
        pool, batch = kv.latent(layer), meta[layer].batch
        (tokens, rank), rope_dim = latent.shape, rope.shape[1]
        if not tokens:
            return
        latent, rope = _dense(latent), _dense(rope)
        latent_write_kernel[(tokens,)](
            latent,
            rope,
            pool,
            batch.slots,
            latent.stride(0),
            rope.stride(0),
            *pool.stride()[:2],
            RANK=rank,
            ROPE=rope_dim,
            RANK_WIDE=tables.padded(rank),
            ROPE_WIDE=tables.padded(rope_dim),
            PAGE=batch.page_size,
        )

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
        """q_latent [tokens, heads, rank], q_rope [tokens, heads, rope_dim] -> [tokens, heads, rank], contiguous.

        Raises ValueError for a scale of 0 or less.
        """
        _need_positive(scale)
        q, rope = _dense(q_latent), _dense(q_rope)
        out = q.new_empty(q.shape)
        launch_latent(LatentCall(meta[layer], q, rope, kv.latent(layer), out, scale), self.workspaces)
        return out


def _need_positive(scale: float) -> None:
    if scale <= 0:
        raise ValueError(f"the scale of attention is {scale}; these kernels need a positive one")


def _pool(kv: KVView, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's keys and values; the kernels use one set of strides for both."""
    keys, values = kv.layer(layer)
    if keys.stride() != values.stride() or keys.stride(3) != 1:
        raise ValueError("keys and values of the pool must lie alike, dense within a head")
    return keys, values


def _dense(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _narrowest(asked: int, kept: int) -> int:
    """The window that holds: what the layer asks for and what its cache keeps; 0 means no limit."""
    return min(asked, kept) if asked and kept else asked or kept
