"""The attention layer: writes the new keys and values, then attends through the chosen backend."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sglcore.contracts.models import BuildContext, ForwardInputs
from sglcore.errors import ConfigError
from sglcore.layers.loading import Slot

SCALE_NAMES = ("k_scale", "v_scale", "k_proj.k_scale", "v_proj.v_scale", "k_proj.output_scale", "v_proj.output_scale")


class Attention:
    """Softmax attention of one layer over the paged cache.

    layer: attention layer index, as in the model's KV groups. window 0 means all positions; soft_cap 0 none.
    sinks: one extra logit a head that takes part in the softmax and yields nothing, or None.

    Keys and values in eight bits are kept divided by scales where the checkpoint holds some (see `slots`), else as they
    are. Scaled layers norm, rotate and write one after another.
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
        self.scales = {"k": 1.0, "v": 1.0}
        self.write_kv = ctx.attention.write_kv
        self.attend = ctx.attention.attend
        self.rope_write = getattr(ctx.attention, "rope_write", None)  # of a `RopeWriter`
        self.rope = ctx.ops.rope
        self.norm = ctx.ops.rms_norm

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, inputs: ForwardInputs) -> torch.Tensor:
        """q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] -> [tokens, heads, head_dim]."""
        if not self._scaled(inputs):
            self.write_kv(self.layer, k, v, inputs.kv, inputs.attn)
            return self._attend(q, inputs)
        by_k, by_v = self.scales["k"], self.scales["v"]
        self.write_kv(self.layer, k / by_k, v / by_v, inputs.kv, inputs.attn)
        return self._attend(q, inputs, by_k).mul_(by_v)

    def slots(self, prefix: str) -> dict[str, Slot]:
        """The scales of a cache in eight bits, one number each, under the names that quantizers give them.

        prefix: as "model.layers.0.self_attn.". A checkpoint may lack them. Raises ConfigError for a scale that is none.
        """
        names = {f"{prefix}{stem}": "k" if stem.startswith("k") else "v" for stem in SCALE_NAMES}
        return {name: Slot((), self._scale_by(kind, name), optional=True) for name, kind in names.items()}

    def rotary(
        self,
        qkv: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        inputs: ForwardInputs,
        heads: int,
        kv_heads: int,
        *,
        q_norm: torch.Tensor | None = None,
        k_norm: torch.Tensor | None = None,
        eps: float = 0.0,
    ) -> torch.Tensor:
        """The same from the joint projection, qkv [tokens, heads + 2 kv_heads, head_dim] -> [tokens, heads, head_dim].

        angles: (cos, sin) of the step. q_norm, k_norm [head_dim]: weights of a root-mean-square norm over each head
        before the rotation, with `eps`. One call of the backend where it is a `RopeWriter`, else norm, `Ops.rope` and
        `write_kv` one after another.
        """
        if self.rope_write is not None and not self._scaled(inputs):
            q = self.rope_write(
                self.layer,
                qkv,
                *angles,
                heads,
                inputs.kv,
                inputs.attn,
                q_norm=q_norm,
                k_norm=k_norm,
                eps=eps,
            )
            return self._attend(q, inputs)
        q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
        if q_norm is not None:
            q = self.norm(q, q_norm, eps)
        if k_norm is not None:
            k = self.norm(k, k_norm, eps)
        q, k = self.rope(q, k, *angles)
        return self(q, k, v, inputs)

    def _scale_by(self, kind: str, name: str) -> Callable[[torch.Tensor], None]:
        def put(tensor: torch.Tensor) -> None:
            scale = float(tensor)
            if not 0 < scale < float("inf"):
                raise ConfigError(
                    f"The tensor {name} holds {scale}; a scale is a finite number above 0.",
                    remedy="Remove it from the checkpoint, or quantize the cache anew.",
                )
            self.scales[kind] = scale

        return put

    def _scaled(self, inputs: ForwardInputs) -> bool:
        """Whether the pool holds keys and values divided by scales."""
        if self.scales["k"] == self.scales["v"] == 1.0:
            return False
        return inputs.kv.layer(self.layer)[0].element_size() == 1

    def _attend(self, q: torch.Tensor, inputs: ForwardInputs, by_k: float = 1.0) -> torch.Tensor:
        return self.attend(
            self.layer,
            q,
            inputs.kv,
            inputs.attn,
            scale=self.scale * by_k,
            window=self.window,
            soft_cap=self.soft_cap,
            sinks=self.sinks,
        )
