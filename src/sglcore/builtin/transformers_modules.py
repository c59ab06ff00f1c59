"""Modules that stand in for those of a Transformers model and compute on the platform's kernels.

Each takes inputs of any leading shape, as the modules it stands in for. Where model code may read a layer's weight,
an empty one on the meta device tells shape and type and holds no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from sglcore.contracts.ops import Ops


class OpsLinear(nn.Module):
    """A linear map, for inputs [..., in]."""

    def __init__(self, ops: Ops, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        self.op = ops.linear(weight, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        flat = x.reshape(-1, self.in_features).contiguous()  # [tokens, in]
        return self.op(flat).view(*x.shape[:-1], self.out_features)


class OpsRMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension."""

    def __init__(self, ops: Ops, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.ops, self.weight, self.eps = ops, nn.Parameter(weight, requires_grad=False), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., dim] -> the same shape."""
        if x.is_contiguous() or x.dim() < 4:
            flat = x.reshape(-1, x.shape[-1])
        else:
            flat = x.flatten(0, -3)  # heads out of a joint projection, read where they are
        if flat.stride(-1) != 1:
            flat = flat.contiguous()
        return self.ops.rms_norm(flat, self.weight, self.eps).reshape(x.shape)


class OpsEmbedding(nn.Module):
    """A table of vectors."""

    def __init__(self, ops: Ops, table: nn.Embedding) -> None:
        super().__init__()
        self.ops, self.weight = ops, table.weight  # the very parameter: an output layer may be tied to it

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int [...] -> [..., hidden]."""
        return self.ops.embedding(ids.reshape(-1), self.weight).view(*ids.shape, self.weight.shape[1])


class OpsGatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), with gate and up in one product."""

    def __init__(self, ops: Ops, gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self.gate_up = OpsLinear(ops, *joined((gate, up)))
        self.down = OpsLinear(ops, *joined((down,)))
        self.ops = ops

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> the same shape."""
        flat = x.reshape(-1, x.shape[-1])
        return self.down(self.ops.silu_mul(self.gate_up(flat))).view(x.shape)


class JointLinear:
    """Several linear maps of one input in one product: the first that is called computes it, the others find it.

    Right for any calls: what is found was computed from the very tensor that is given. Nothing is kept beyond the call
    of the last part.
    """

    def __init__(self, ops: Ops, layers: Sequence[nn.Linear]) -> None:
        self.sizes = [layer.out_features for layer in layers]
        self.whole = OpsLinear(ops, *joined(layers))
        self._x: torch.Tensor | None = None
        self._parts: tuple[torch.Tensor, ...] = ()
        self._left: set[int] = set()

    def part(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> part `index` of the product, [..., out], a slice of it."""
        if x is not self._x or index not in self._left:
            self._parts = self.whole(x).split(self.sizes, -1)
            self._x, self._left = x, set(range(len(self.sizes)))
        self._left.discard(index)
        found = self._parts[index]
        if not self._left:
            self._x, self._parts = None, ()
        return found


class JointPart(nn.Module):
    """One of the maps of a `JointLinear`."""

    def __init__(self, joint: JointLinear, index: int, like: nn.Linear) -> None:
        super().__init__()
        self.joint, self.index = joint, index
        self.out_features, self.in_features = like.out_features, like.in_features
        self.weight = torch.empty(like.weight.shape, dtype=like.weight.dtype, device="meta")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out], the last dimension contiguous."""
        return self.joint.part(self.index, x)


def joined(layers: Sequence[nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weight [sum of outs, in], bias or None): the layers' own where there is one of them, else copies."""
    weights = [layer.weight.detach() for layer in layers]
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    if len(layers) == 1:
        return weights[0], biases[0] if biases else None
    return torch.cat(weights), torch.cat(biases) if biases else None
