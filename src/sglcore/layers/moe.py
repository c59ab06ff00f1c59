"""A mixture of experts: a router picks k gated blocks for each token (Shazeer et al., arXiv:1701.06538)."""

from __future__ import annotations

from functools import partial

import torch

from sglcore.contracts.models import BuildContext
from sglcore.errors import ConfigError
from sglcore.layers import reference
from sglcore.layers.linear import Linear, Part, Reduce, even
from sglcore.layers.loading import Slot


class Router:
    """Which experts a token takes and how much of each: the k largest of a softmax in float32 over all of them.

    normalise: divide the k weights by their sum. Whole on every rank.
    """

    def __init__(self, ctx: BuildContext, hidden: int, experts: int, k: int, *, normalise: bool) -> None:
        if not 0 < k <= experts:
            raise ConfigError(
                f"config.json asks for {k} experts a token and has {experts} of them.",
                remedy="Use the config.json the model came with.",
            )
        self.k = k
        self.normalise = normalise
        self.gate = Linear(ctx, hidden, [Part("gate", experts)])
        self.route = getattr(ctx.ops, "route", None) or reference.route

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [tokens, hidden] -> weights float32 and experts int32, both [tokens, k], the heaviest first."""
        return self.route(self.gate(x), self.k, self.normalise)

    def slots(self, prefix: str) -> dict[str, Slot]:
        """`<prefix>gate.weight`."""
        return self.gate.slots(prefix)


class GatedExperts:
    """The experts' weights: gate and up as one matrix each, every expert cut along its inner size over the ranks.

    Computes through `FusedOps.moe` where the table has it, else through the torch reference. `reduce` is the context's
    `all_reduce` unless given. Raises ConfigError where there are several ranks and no way to sum over them.
    """

    def __init__(
        self, ctx: BuildContext, experts: int, hidden: int, inner: int, *, reduce: Reduce | None = None
    ) -> None:
        self.experts, self.hidden, self.inner = experts, hidden, inner
        self.local = even(inner, ctx.tp_size, "the experts' inner size")
        self.first = ctx.tp_rank * self.local  # of the inner columns on this rank
        self.reduce = reduce or ctx.all_reduce
        if ctx.tp_size > 1 and self.reduce is None:
            raise ConfigError(
                f"The experts are split over {ctx.tp_size} ranks, but this platform offers no sum over ranks.",
                remedy="Run with a tensor-parallel size of 1.",
            )
        self.gate_up = torch.empty(experts, 2 * self.local, hidden, dtype=ctx.dtype, device=ctx.device)
        self.down = torch.empty(experts, hidden, self.local, dtype=ctx.dtype, device=ctx.device)
        self.moe = getattr(ctx.ops, "moe", None) or reference.moe

    def __call__(self, x: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        """x [tokens, hidden], weights float32 and experts int32 [tokens, k] -> [tokens, hidden], summed over ranks."""
        y = self.moe(x, self.gate_up, self.down, weights, experts)
        return y if self.reduce is None else self.reduce(y)

    def slots(self, prefix: str) -> dict[str, Slot]:
        """`<prefix>N.gate_proj.weight`, `up_proj` and `down_proj` of every expert N; or all in two tensors,
        `<prefix>gate_up_proj` [experts, 2 * inner, hidden] and `<prefix>down_proj` [experts, hidden, inner]."""
        table: dict[str, Slot] = {}
        wide, tall = (self.inner, self.hidden), (self.hidden, self.inner)
        inputs: list[str] = []
        outputs: list[str] = []
        for expert in range(self.experts):
            gate, up, down = (f"{prefix}{expert}.{name}_proj.weight" for name in ("gate", "up", "down"))
            table[gate] = Slot(wide, partial(self._put_rows, expert, 0))
            table[up] = Slot(wide, partial(self._put_rows, expert, 1))
            table[down] = Slot(tall, partial(self._put_columns, expert))
            inputs += [gate, up]
            outputs.append(down)
        merged = (self.experts, 2 * self.inner, self.hidden)
        table[f"{prefix}gate_up_proj"] = Slot(merged, self._put_merged, stands_for=tuple(inputs))
        table[f"{prefix}down_proj"] = Slot(
            (self.experts, *tall), partial(self._put_columns, slice(None)), stands_for=tuple(outputs)
        )
        return table

    def _put_rows(self, expert: int, half: int, tensor: torch.Tensor) -> None:
        """Of the gate (half 0) or up (half 1) matrix of one expert."""
        start = half * self.local
        self.gate_up[expert, start : start + self.local].copy_(tensor[self.first : self.first + self.local])

    def _put_columns(self, expert: int | slice, tensor: torch.Tensor) -> None:
        """Of the down matrix of one expert, or of all."""
        self.down[expert].copy_(tensor[..., self.first : self.first + self.local])

    def _put_merged(self, tensor: torch.Tensor) -> None:
        """tensor [experts, 2 * inner, hidden], gate rows before up rows."""
        for half in range(2):
            rows = tensor[:, half * self.inner + self.first :][:, : self.local]
            self.gate_up[:, half * self.local : (half + 1) * self.local].copy_(rows)


class MixtureOfExperts:
    """Router and experts in the place of a `GatedMLP`."""

    def __init__(
        self,
        ctx: BuildContext,
        hidden: int,
        inner: int,
        *,
        experts: int,
        k: int,
        normalise: bool,
        reduce: Reduce | None = None,
    ) -> None:
        self.router = Router(ctx, hidden, experts, k, normalise=normalise)
        self.experts = GatedExperts(ctx, experts, hidden, inner, reduce=reduce)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, hidden] -> [tokens, hidden]."""
        return self.experts(x, *self.router(x))

    def slots(self, prefix: str) -> dict[str, Slot]:
        """The tensors of `gate` and `experts` below `prefix` (which ends in a dot)."""
        return self.router.slots(prefix) | self.experts.slots(f"{prefix}experts.")
