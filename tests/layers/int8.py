"""A small quantization method for tests: int8 weights with a scale an output, or int8 made while loading.

The checkpoint holds `<matrix>.qweight` int8 [out, in] and `<matrix>.scales` float32 [out]. With `group` in the
config, scales are float32 [out, in / group].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sglcore.contracts.quant import LinearPart, QuantContext, QuantSpec, QuantTensor

INT8 = QuantSpec(
    name="int8",
    factory="layers.int8:Int8",
    summary="int8 weights",
    methods=("int8",),
    online=True,
    bits=(8,),
    dtypes=("float32",),
)


class Int8Linear:
    def __init__(self, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.scales, self.bias = weight, scales, bias
        self.out_features = weight.shape[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out]."""
        out, groups = self.scales.shape
        whole = (self.weight.view(out, groups, -1) * self.scales.unsqueeze(-1)).view(out, -1)
        y = x @ whole.to(x.dtype).t()
        return y if self.bias is None else y + self.bias


class Int8:
    """Implements `contracts.QuantMethod`."""

    def __init__(self, context: QuantContext) -> None:
        self.online = not context.config
        self.group = int(context.config.get("group", 0))
        self.skipped = tuple(context.config.get("modules_to_not_convert", ()))
        self.made: list[str] = []

    def tensors(self, part: LinearPart) -> tuple[QuantTensor, ...] | None:
        if any(name in part.name for name in self.skipped):
            return None
        shape = (part.out_features, part.in_features)
        if self.online:
            return (QuantTensor(suffix="weight", shape=shape),)
        scales = QuantTensor(suffix="scales", shape=shape[:1], dtype="float32", in_dim=None, span=(0.001, 0.01))
        if self.group:
            grouped = (shape[0], shape[1] // self.group)
            scales = QuantTensor(suffix="scales", shape=grouped, dtype="float32", in_per=self.group)
        return QuantTensor(suffix="qweight", shape=shape, dtype="int8"), scales

    def linear(
        self, parts: tuple[LinearPart, ...], tensors: Sequence[dict[str, torch.Tensor]], bias: torch.Tensor | None
    ) -> Int8Linear:
        self.made.append(parts[0].name)
        pairs = [quantized(t["weight"]) if self.online else (t["qweight"], t["scales"]) for t in tensors]
        scales = [s if s.dim() == 2 else s.unsqueeze(1) for _, s in pairs]
        return Int8Linear(torch.cat([w for w, _ in pairs]), torch.cat(scales), bias)


def quantized(weight: torch.Tensor, group: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [out, in] -> int8 of the same shape, scales float32 [out], or [out, in / group]."""
    out, columns = weight.shape
    grouped = weight.float().view(out, -1, group or columns)
    scales = (grouped.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12)
    whole = (grouped / scales).round().to(torch.int8).view(out, columns)
    return whole, scales.squeeze(-1) if group else scales.view(out)
