"""Root-mean-square normalisation."""

from __future__ import annotations

import torch

from sglcore.contracts.models import BuildContext
from sglcore.layers.loading import Slot, copy_into


class RMSNorm:
    """x / rms(x) * weight, statistics in float32 (Zhang and Sennrich, arXiv:1910.07467)."""

    def __init__(self, ctx: BuildContext, size: int, eps: float) -> None:
        self.weight = torch.ones(size, dtype=ctx.dtype, device=ctx.device)
        self.eps = eps
        self.norm = ctx.ops.rms_norm
        self.add_norm = ctx.ops.add_rms_norm

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., size] -> like x."""
        return self.norm(x, self.weight, self.eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(norm(x + residual), x + residual), both [tokens, size]; `residual` may be overwritten."""
        return self.add_norm(x, residual, self.weight, self.eps)

    def slots(self, name: str) -> dict[str, Slot]:
        """`<name>.weight`."""
        return {f"{name}.weight": Slot(tuple(self.weight.shape), copy_into(self.weight), mean=1.0)}
