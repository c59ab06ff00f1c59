"""A build context over the reference ops, for layer tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from sglcore.contracts.models import BuildContext
from sglcore.layers import reference


class ReferenceLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias, self.out_features = weight, bias, weight.shape[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return reference.linear(x, self.weight, self.bias)


def context(config: dict[str, Any] | None = None, **more: Any) -> BuildContext:
    ops = SimpleNamespace(
        linear=ReferenceLinear,
        embedding=reference.embedding,
        rms_norm=reference.rms_norm,
        add_rms_norm=reference.add_rms_norm,
        silu_mul=reference.silu_mul,
        rope=reference.rope,
    )
    given: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "attention": None, **more}
    return BuildContext(config=config or {}, ops=ops, **given)
