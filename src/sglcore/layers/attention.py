"""The attention layer: writes the new keys and values, then attends through the chosen backend."""

from __future__ import annotations

import torch

from sglcore.contracts.models import BuildContext, ForwardInputs


class Attention:
    """Softmax attention of one layer over the paged cache.

    layer: attention layer index, as in the model's KV groups. window 0 means all positions; soft_cap 0 none.
    sinks: one extra logit a head that takes part in the softmax and yields nothing, or None.
    """

    def __init__(
        self,
        ctx: BuildContext,
        layer: int,
        *,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: torch.Tensor | None = None,
    ) -> None:
        self.layer = layer
        self.scale = scale
        self.window = window
        self.soft_cap = soft_cap
        self.sinks = sinks
        self.write_kv = ctx.attention.write_kv
        self.attend = ctx.attention.attend

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, inputs: ForwardInputs) -> torch.Tensor:
        """q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] -> [tokens, heads, head_dim]."""
        kv, meta = inputs.kv, inputs.attn
        self.write_kv(self.layer, k, v, kv, meta)
        return self.attend(
            self.layer,
            q,
            kv,
            meta,
            scale=self.scale,
            window=self.window,
            soft_cap=self.soft_cap,
            sinks=self.sinks,
        )
