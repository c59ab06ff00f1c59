"""A linear layer's quantized tensors on their way from the checkpoint to the quantization method's kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from sglcore.contracts.models import BuildContext
from sglcore.contracts.ops import LinearOp
from sglcore.contracts.quant import LinearPart, QuantMethod, QuantTensor
from sglcore.errors import ConfigError
from sglcore.layers.loading import Slot


class QuantizedWeight:
    """What stands for one layer's weight. Collects this rank's shares, then makes the kernel and lets go of them."""

    def __init__(
        self,
        method: QuantMethod,
        parts: tuple[LinearPart, ...],
        wanted: tuple[tuple[QuantTensor, ...], ...],
        device: torch.device,
    ) -> None:
        self.method = method
        self.parts = parts
        self.wanted = wanted
        self.device = device
        self._tensors: list[dict[str, torch.Tensor]] = [{} for _ in parts]

    @classmethod
    def of(cls, ctx: BuildContext, parts: tuple[LinearPart, ...]) -> QuantizedWeight | None:
        """None where nothing is quantized, or the method leaves this layer plain. Raises ConfigError for a mixture."""
        if ctx.quant is None:
            return None
        wanted = [ctx.quant.tensors(part) for part in parts]
        plain = [part.name for part, tensors in zip(parts, wanted, strict=True) if tensors is None]
        if len(plain) == len(parts):
            return None
        if plain:
            other = next(part.name for part in parts if part.name not in plain)
            raise ConfigError(
                f"{other} is quantized and {plain[0]} is not, but they are computed as one matrix.",
                remedy="Use a checkpoint in which both are quantized or both are left out.",
            )
        return cls(ctx.quant, parts, tuple(t for t in wanted if t is not None), ctx.device)

    def slots(self, index: int, filled: Callable[[], None]) -> dict[str, Slot]:
        """The tensors of part `index`; `filled` is called after each."""
        part = self.parts[index]
        return {
            f"{part.name}.{tensor.suffix}": Slot(
                tensor.shape,
                partial(self._put, index, tensor, filled),
                dtype=getattr(torch, tensor.dtype) if tensor.dtype else None,
                span=tensor.span,
            )
            for tensor in self.wanted[index]
        }

    def finish(self, bias: torch.Tensor | None) -> LinearOp:
        """The kernel; from here on only it holds the tensors."""
        tensors, self._tensors = self._tensors, []
        return self.method.linear(self.parts, tensors, bias)

    def _put(self, index: int, wanted: QuantTensor, filled: Callable[[], None], tensor: torch.Tensor) -> None:
        part = self.parts[index]
        share, name = tensor, f"{part.name}.{wanted.suffix}"
        if wanted.out_dim is not None and part.rows != (0, part.out_features):
            share = _cut(name, share, wanted.out_dim, wanted.out_per, *part.rows)
        if wanted.in_dim is not None and part.columns != (0, part.in_features):
            share = _cut(name, share, wanted.in_dim, wanted.in_per, *part.columns)
        # a copy: what the checkpoint hands out may be a view of its file
        self._tensors[index][wanted.suffix] = share.to(self.device, copy=True).contiguous()
        filled()


def _cut(name: str, tensor: torch.Tensor, dim: int, per: int, start: int, stop: int) -> torch.Tensor:
    """The elements along `dim`, each of which stands for `per` outputs or inputs, that hold those of start to stop."""
    if start % per or stop % per:
        raise ConfigError(
            f"{name} keeps {per} values to an element along dimension {dim} and cannot be cut at {start} to {stop}.",
            remedy="Use a smaller tensor-parallel size.",
        )
    return tensor.narrow(dim, start // per, (stop - start) // per)
