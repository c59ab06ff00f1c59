"""SplitAttention: one backend for steps of prompts, another for all in which rows decode, over one cache.

A step that holds both goes to the latter: what the better kernels for prompts gain there is less than what single
tokens lose in them (measured on an H200: 512 requests of 512 / 256 tokens gave 10,171 output tokens a second with mixed
steps in FlashInfer, 10,799 in Triton).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sglcore.contracts.attention import AttentionBackend, AttentionBatch, GraphBackend, KVView

if TYPE_CHECKING:
    import torch

Meta = tuple[AttentionBackend, Any]  # who planned the step, and what it planned


class SplitAttention:
    """Implements `contracts.AttentionBackend`; also its optional companions, as far as the two halves do."""

    def __init__(self, prefill: AttentionBackend, decode: AttentionBackend) -> None:
        self.prefill = prefill
        self.decode = decode
        if hasattr(prefill, "rope_write") and hasattr(decode, "rope_write"):
            self.rope_write = self._rope_write
        if hasattr(prefill, "attend_latent") and hasattr(decode, "attend_latent"):
            self.write_latent, self.attend_latent = self._write_latent, self._attend_latent
        if hasattr(decode, "refresh"):  # only decoding steps are captured
            self.refresh = self._refresh

    def plan(self, batches: tuple[AttentionBatch, ...]) -> Meta:
        """By the backend that the step is for."""
        counts = batches[0].q_lens_host
        decodes = batches[0].max_q_len == 1 or counts is None or bool((counts == 1).any())
        one = self.decode if decodes else self.prefill
        return one, one.plan(batches)

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: Meta) -> None:
        """As the step's backend does."""
        meta[0].write_kv(layer, k, v, kv, meta[1])

    def attend(self, layer: int, q: torch.Tensor, kv: KVView, meta: Meta, **how: Any) -> torch.Tensor:
        """As the step's backend does."""
        return meta[0].attend(layer, q, kv, meta[1], **how)

    def _rope_write(
        self, layer: int, qkv: Any, cos: Any, sin: Any, heads: int, kv: KVView, meta: Meta, **how: Any
    ) -> Any:
        own: Any = meta[0]
        return own.rope_write(layer, qkv, cos, sin, heads, kv, meta[1], **how)

    def _write_latent(self, layer: int, latent: Any, rope: Any, kv: KVView, meta: Meta) -> None:
        own: Any = meta[0]
        own.write_latent(layer, latent, rope, kv, meta[1])

    def _attend_latent(self, layer: int, q: Any, q_rope: Any, kv: KVView, meta: Meta, *, scale: float) -> Any:
        own: Any = meta[0]
        return own.attend_latent(layer, q, q_rope, kv, meta[1], scale=scale)

    def _refresh(self, meta: Meta, batches: tuple[AttentionBatch, ...]) -> None:
        cast("GraphBackend", meta[0]).refresh(meta[1], batches)
