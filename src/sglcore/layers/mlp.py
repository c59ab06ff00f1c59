"""The gated feed-forward block: down(silu(gate(x)) * up(x)) (Shazeer, arXiv:2002.05202)."""

from __future__ import annotations

import torch

from sglcore.contracts.models import BuildContext
from sglcore.layers.linear import Linear, Part, Reduce, RowParallelLinear, even
from sglcore.layers.loading import Slot


class GatedMLP:
    """Gate and up run as one matrix; the intermediate size is sharded over ranks."""

    def __init__(
        self, ctx: BuildContext, hidden: int, intermediate: int, *, bias: bool = False, reduce: Reduce | None = None
    ) -> None:
        even(intermediate, ctx.tp_size, "the MLP's intermediate size")
        parts = [Part("gate_proj", intermediate, ctx.tp_size), Part("up_proj", intermediate, ctx.tp_size)]
        self.gate_up = Linear(ctx, hidden, parts, bias=bias)
        self.down = RowParallelLinear(ctx, intermediate, hidden, "down_proj", bias=bias, reduce=reduce)
        self.silu_mul = ctx.ops.silu_mul

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, hidden] -> [tokens, hidden]."""
        return self.down(self.silu_mul(self.gate_up(x)))

    def slots(self, prefix: str) -> dict[str, Slot]:
        """The tensors of gate_proj, up_proj and down_proj below `prefix` (which ends in a dot)."""
        return self.gate_up.slots(prefix) | self.down.slots(prefix)
