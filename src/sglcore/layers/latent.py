"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): one cached vector a token, shared by all heads."""

from __future__ import annotations

from typing import cast

import torch

from sglcore.contracts.attention import LatentBackend
from sglcore.contracts.models import BuildContext, ForwardInputs, KVGroup
from sglcore.layers.linear import Linear, Part, even
from sglcore.layers.loading import Slot


class LatentAttention:
    """Softmax attention of one layer over cached latents, in the absorbed form.

    Each head's keys and values are linear in a latent of `rank` values that all heads share: key = up_k latent beside a
    rotary part that is shared too, value = up_v latent. Instead of expanding the cache, queries go through up_k and
    results through up_v: the backend sees one key head, whose first values are the values. The checkpoint holds both
    matrices as one, [heads x (nope + value), rank], head by head; a quantized one is expanded while loading.

    layer: attention layer index, in a group of kind "latent" (`latent_group`). nope, value: of each head, the part of
    the query without rotation and the result. scale: of the scores, from the sizes before absorption. Heads are shared
    out over the ranks. Raises ConfigError where they do not divide.
    """

    def __init__(
        self, ctx: BuildContext, layer: int, *, heads: int, rank: int, nope: int, value: int, scale: float
    ) -> None:
        self.layer = layer
        self.scale = scale
        self.heads = even(heads, ctx.tp_size, "the number of attention heads")  # of this rank
        self.rank, self.nope, self.value = rank, nope, value
        self.up = _UpProjection(ctx, self, heads)
        self.up_k = torch.empty(self.heads, nope, rank, dtype=ctx.dtype, device=ctx.device)
        self.up_v = torch.empty(self.heads, rank, value, dtype=ctx.dtype, device=ctx.device)
        backend = cast("LatentBackend", ctx.attention)
        self.write_latent = backend.write_latent
        self.attend_latent = backend.attend_latent

    def __call__(
        self,
        q_nope: torch.Tensor,
        q_rope: torch.Tensor,
        latent: torch.Tensor,
        k_rope: torch.Tensor,
        inputs: ForwardInputs,
    ) -> torch.Tensor:
        """q_nope [tokens, heads, nope], q_rope [tokens, heads, rope_dim], latent [tokens, rank] as it is cached (normed
        where the model does so), k_rope [tokens, rope_dim], both rope parts rotated -> [tokens, heads, value]."""
        self.write_latent(self.layer, latent, k_rope, inputs.kv, inputs.attn)
        absorbed = torch.bmm(q_nope.transpose(0, 1), self.up_k).transpose(0, 1)  # [tokens, heads, rank]
        out = self.attend_latent(self.layer, absorbed, q_rope, inputs.kv, inputs.attn, scale=self.scale)
        return torch.bmm(out.transpose(0, 1), self.up_v).transpose(0, 1)

    def slots(self, prefix: str, name: str = "kv_b_proj") -> dict[str, Slot]:
        """`<prefix><name>.weight`, or what stands for it in a quantized checkpoint."""
        return self.up.named(name).slots(prefix)

    def take(self, whole: torch.Tensor) -> None:
        """Keep what of `whole` [heads x (nope + value), rank], this rank's heads, leads to keys and to values."""
        keys, values = whole.view(self.heads, self.nope + self.value, self.rank).split((self.nope, self.value), 1)
        self.up_k.copy_(keys)
        self.up_v.copy_(values.transpose(1, 2))


class _UpProjection(Linear):
    """The matrix out of the latent: loaded as a linear layer, then taken apart; it computes nothing itself."""

    def __init__(self, ctx: BuildContext, owner: LatentAttention, heads: int) -> None:
        self.owner = owner
        self.out = heads * (owner.nope + owner.value)
        super().__init__(ctx, owner.rank, [Part("kv_b_proj", self.out, ctx.tp_size)])

    def named(self, name: str) -> _UpProjection:
        """The same under the checkpoint's name."""
        self.parts = (Part(name, self.out, self.ctx.tp_size),)
        return self

    def _seal(self) -> None:
        self._wanted -= 1
        if self._wanted:
            return
        if self._quantized is not None:
            unit = torch.eye(self.owner.rank, dtype=self.ctx.dtype, device=self.ctx.device)
            self.owner.take(self._quantized.finish(None)(unit).T.contiguous())
        elif self._weight is not None:
            self.owner.take(self._weight)
        self._weight = self._quantized = None


def latent_group(layers: int, rank: int, rope_dim: int) -> KVGroup:
    """What the cache must hold for `layers` layers of latent attention."""
    return KVGroup(kind="latent", layers=tuple(range(layers)), kv_heads=1, head_dim=rank + rope_dim)


def halves_of_pairs(x: torch.Tensor) -> torch.Tensor:
    """[..., dim] with the two numbers of a rotated pair side by side -> the same with all first ones before all second.

    For checkpoints whose rotary part is interleaved, as DeepSeek's: `Ops.rope` rotates halves, and scores do not change
    where queries and keys are put in another order alike.
    """
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
