"""Linear layers: several checkpoint tensors merged into one matrix, sharded over tensor-parallel ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sglcore.contracts.models import BuildContext
from sglcore.contracts.ops import LinearOp
from sglcore.contracts.quant import LinearPart
from sglcore.errors import ConfigError
from sglcore.layers.loading import Slot
from sglcore.layers.quantized import QuantizedWeight

Reduce = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """One checkpoint matrix [out, in] inside a merged linear.

    shards: into how many pieces its output is cut; fewer than ranks means that neighbours share one, as
        key and value heads do when there are fewer of them than ranks. 1 keeps it whole everywhere.
    """

    name: str
    out_features: int
    shards: int = 1

    @property
    def local(self) -> int:
        """Outputs on one rank."""
        return self.out_features // self.shards


def even(total: int, ranks: int, what: str) -> int:
    """total / ranks. Raises ConfigError where it does not divide."""
    if total % ranks:
        raise ConfigError(
            f"{what} = {total} cannot be split evenly over {ranks} tensor-parallel ranks.",
            remedy=f"Use a tensor-parallel size that divides {total}.",
        )
    return total // ranks


class Linear:
    """y = x W^T + b with W the parts' matrices stacked along the output, this rank's shard of each.

    x [tokens, in] -> [tokens, sum of the parts' local outputs]. `op` is None until the last part is loaded.
    """

    def __init__(self, ctx: BuildContext, in_features: int, parts: Sequence[Part], *, bias: bool = False) -> None:
        self.ctx = ctx
        self.in_features = in_features
        self.parts = tuple(parts)
        for part in self.parts:
            even(part.out_features, part.shards, part.name)
            even(ctx.tp_size, part.shards, f"tensor-parallel size for {part.name}'s {part.shards} shards:")
        self.sizes = [part.local for part in self.parts]
        self.has_bias = bias
        self.op: LinearOp | None = None
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        self._quantized: QuantizedWeight | None = None
        self._wanted = 0  # tensors still to come

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in] -> [tokens, local out]."""
        return self.op(x)  # type: ignore[misc]  # loaded before any call; a check here would run per layer and step

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """The same written to `out`, contiguous and of the dtype of x."""
        write_into(self.op, x, out)

    def slots(self, prefix: str) -> dict[str, Slot]:
        """`<prefix><part>.weight` and, with a bias, `<prefix><part>.bias` of every part.

        Where the context's quantization method serves the layer, its tensors stand in place of the weights.
        """
        table: dict[str, Slot] = {}
        self._quantized = QuantizedWeight.of(self.ctx, tuple(self._share(prefix, part) for part in self.parts))
        for index, part in enumerate(self.parts):
            shape = self._whole(part)
            if self._quantized is not None:
                table |= self._quantized.slots(index, self._seal)
            else:
                table[f"{prefix}{part.name}.weight"] = Slot(shape, partial(self._put_weight, index))
            if self.has_bias:
                table[f"{prefix}{part.name}.bias"] = Slot(shape[:1], partial(self._put_bias, index))
        self._wanted = len(table)
        return table

    def _share(self, prefix: str, part: Part) -> LinearPart:
        """What this rank keeps of a part, for the quantization method."""
        rows, columns = self._rows(part), self._columns()
        return LinearPart(
            name=f"{prefix}{part.name}",
            out_features=part.out_features,
            in_features=self.in_features,
            rows=(rows.start, rows.stop),
            columns=(columns.start, columns.stop),
        )

    def _whole(self, part: Part) -> tuple[int, int]:
        return part.out_features, self.in_features

    def _rows(self, part: Part) -> slice:
        """Which outputs of a part this rank keeps."""
        shard = self.ctx.tp_rank * part.shards // self.ctx.tp_size
        return slice(shard * part.local, (shard + 1) * part.local)

    def _columns(self) -> slice:
        """Which inputs this rank keeps."""
        return slice(0, self.in_features)

    def _place(self, index: int) -> slice:
        start = sum(self.sizes[:index])
        return slice(start, start + self.sizes[index])

    def _put_weight(self, index: int, tensor: torch.Tensor) -> None:
        shard = tensor[self._rows(self.parts[index]), self._columns()]
        if self._weight is None:
            self._weight = self._empty(sum(self.sizes), shard.shape[1])
        self._weight[self._place(index)].copy_(shard)
        self._seal()

    def _put_bias(self, index: int, tensor: torch.Tensor) -> None:
        if self._bias is None:
            self._bias = self._empty(sum(self.sizes))
        self._bias[self._place(index)].copy_(tensor[self._rows(self.parts[index])])
        self._seal()

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.ctx.dtype, device=self.ctx.device)

    def _seal(self) -> None:
        """Hand the weight over once every part is in; from then on only the op holds it."""
        self._wanted -= 1
        if self._wanted:
            return
        if self._quantized is not None:
            self.op = self._quantized.finish(self._bias)
        elif self._weight is not None:
            self.op = self.ctx.ops.linear(self._weight, self._bias)
        self._weight = self._bias = None


def write_into(op: Any, x: torch.Tensor, out: torch.Tensor) -> None:
    """A `LinearOp`'s result in `out`, without a copy where the op can."""
    if hasattr(op, "into"):
        op.into(x, out)
    else:
        out.copy_(op(x))


class RowParallelLinear(Linear):
    """A linear whose input is sharded: each rank holds in / tp_size columns and `reduce` adds the ranks' results.

    `reduce` is the context's `all_reduce` unless given. The bias counts once, on rank 0. Raises ConfigError where
    there are several ranks and no way to sum over them.
    """

    def __init__(
        self,
        ctx: BuildContext,
        in_features: int,
        out_features: int,
        name: str,
        *,
        bias: bool = False,
        reduce: Reduce | None = None,
    ) -> None:
        super().__init__(ctx, in_features, [Part(name, out_features)], bias=bias)
        self.columns = even(in_features, ctx.tp_size, f"{name}'s input")
        reduce = reduce or ctx.all_reduce
        if ctx.tp_size > 1 and reduce is None:
            raise ConfigError(
                f"{name} is split over {ctx.tp_size} ranks, but this platform offers no sum over ranks.",
                remedy="Run with a tensor-parallel size of 1.",
            )
        self.reduce = reduce

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in / tp_size] -> [tokens, out], summed over ranks."""
        y = self.op(x)  # type: ignore[misc]
        return y if self.reduce is None else self.reduce(y)

    def _columns(self) -> slice:
        start = self.ctx.tp_rank * self.columns
        return slice(start, start + self.columns)

    def _put_bias(self, index: int, tensor: torch.Tensor) -> None:
        super()._put_bias(index, tensor if self.ctx.tp_rank == 0 else torch.zeros_like(tensor))


def qkv_linear(
    ctx: BuildContext,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    bias: bool = False,
    names: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj"),
) -> Linear:
    """Query, key and value projections as one matrix: -> [tokens, (heads + 2 kv_heads) * head_dim] of this rank.

    With fewer key/value heads than ranks, neighbouring ranks share a head.
    """
    even(heads, ctx.tp_size, "the number of attention heads")
    kv_shards = min(ctx.tp_size, kv_heads)
    parts = [
        Part(names[0], heads * head_dim, ctx.tp_size),
        Part(names[1], kv_heads * head_dim, kv_shards),
        Part(names[2], kv_heads * head_dim, kv_shards),
    ]
    return Linear(ctx, hidden, parts, bias=bias)
