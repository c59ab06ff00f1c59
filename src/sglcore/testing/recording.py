"""An attention backend that remembers what was asked of it."""

from __future__ import annotations

from typing import Any, cast

import torch

from sglcore.contracts.attention import AttentionBackend, AttentionBatch, KVView, LatentBackend


class RecordingAttention:
    """Implements `contracts.AttentionBackend` and `contracts.LatentBackend` around another one.

    used: capabilities by the names that Specs declare. written, attended: layers, once a call.
    """

    def __init__(self, backend: AttentionBackend) -> None:
        self.backend = backend
        self.used: set[str] = set()
        self.written: list[int] = []
        self.attended: list[int] = []

    def plan(self, batches: tuple[AttentionBatch, ...]) -> Any:
        """As the backend does."""
        return self.backend.plan(batches)

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: Any) -> None:
        """As the backend does."""
        self.written.append(layer)
        self.backend.write_kv(layer, k, v, kv, meta)

    def attend(self, layer: int, q: torch.Tensor, kv: KVView, meta: Any, **options: Any) -> torch.Tensor:
        """As the backend does."""
        self.attended.append(layer)
        asked = {
            "sliding_window": bool(options.get("window")),
            "soft_cap": bool(options.get("soft_cap")),
            "sinks": options.get("sinks") is not None,
        }
        self.used |= {name for name, on in asked.items() if on}
        return self.backend.attend(layer, q, kv, meta, **options)

    def write_latent(self, layer: int, latent: torch.Tensor, rope: torch.Tensor, kv: KVView, meta: Any) -> None:
        """As the backend does."""
        self.written.append(layer)
        cast("LatentBackend", self.backend).write_latent(layer, latent, rope, kv, meta)

    def attend_latent(
        self, layer: int, q_latent: torch.Tensor, q_rope: torch.Tensor, kv: KVView, meta: Any, *, scale: float
    ) -> torch.Tensor:
        """As the backend does."""
        self.attended.append(layer)
        self.used.add("mla")
        backend = cast("LatentBackend", self.backend)
        return backend.attend_latent(layer, q_latent, q_rope, kv, meta, scale=scale)
