"""A sound quantization method, int8 with a scale for each group of inputs, and others that each break one promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from sglcore.contracts.quant import LinearPart, QuantContext, QuantTensor
from sglcore.errors import ConfigError

GROUP = 32
Tensors = dict[str, torch.Tensor]


def quantize(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """float [out, in] -> ({"weight": int8, "scale": float32 [out, in / GROUP]}, what they stand for)."""
    groups = weight.view(len(weight), -1, GROUP)
    scale = groups.abs().amax(-1) / 127
    whole = (groups / scale[..., None]).round().clamp(-127, 127)
    return {"weight": whole.reshape(weight.shape).to(torch.int8), "scale": scale}, dequantize(
        whole.reshape(weight.shape), scale
    )


def dequantize(whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (whole.float().view(*scale.shape, -1) * scale[..., None]).reshape(whole.shape)


class Kernel:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias, self.out_features = weight, bias, len(weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)


class Sound:
    def __init__(self, context: QuantContext) -> None:
        self.online = not context.config
        group = context.config.get("group_size", GROUP)
        if type(group) is not int or group != GROUP:
            raise ConfigError(f"group_size is {group!r}; this method reads {GROUP}.")
        self.dtype = context.dtype

    def tensors(self, part: LinearPart) -> tuple[QuantTensor, ...] | None:
        shape = (part.out_features, part.in_features)
        if self.online:
            return (QuantTensor(suffix="weight", shape=shape),)
        scales = (part.out_features, part.in_features // GROUP)
        return (
            QuantTensor(suffix="weight", shape=shape, dtype="int8"),
            QuantTensor(suffix="scale", shape=scales, in_per=GROUP, span=(0.001, 0.01)),
        )

    def linear(self, parts: tuple[LinearPart, ...], tensors: Sequence[Tensors], bias: torch.Tensor | None) -> Any:
        if self.online:
            tensors = [quantize(given["weight"])[0] for given in tensors]
        weights = [self.weight(given["weight"], given["scale"]) for given in tensors]
        return Kernel(torch.cat(weights).to(self.dtype), bias)

    def weight(self, whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return dequantize(whole, scale)


class OffByALittle(Sound):
    def weight(self, whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return dequantize(whole + 1, scale)


class MixesScales(Sound):
    def weight(self, whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return dequantize(whole, scale.flip(1))


class ForgetsTheBias(Sound):
    def linear(self, parts: Any, tensors: Any, bias: Any) -> Any:
        return super().linear(parts, tensors, None)


class SwapsParts(Sound):
    def linear(self, parts: Any, tensors: Any, bias: Any) -> Any:
        return super().linear(parts, tensors[::-1], bias)


class Wide(Sound):
    def linear(self, parts: Any, tensors: Any, bias: Any) -> Any:
        kernel = super().linear(parts, tensors, bias)
        return type("Wide", (), {"out_features": kernel.out_features, "__call__": lambda _, x: kernel(x).double()})()


class ChangesItsInput(Sound):
    def linear(self, parts: Any, tensors: Any, bias: Any) -> Any:
        kernel = super().linear(parts, tensors, bias)
        return type("Dirty", (), {"out_features": kernel.out_features, "__call__": lambda _, x: kernel(x.mul_(1.5))})()


class CountsWrong(Sound):
    def linear(self, parts: Any, tensors: Any, bias: Any) -> Any:
        kernel = super().linear(parts, tensors, bias)
        kernel.out_features += 1
        return kernel


class Declares(Sound):
    """Declares its scale tensor in another way."""

    changes: Any = {}

    def tensors(self, part: LinearPart) -> Any:
        weight, scale = super().tensors(part) or ()
        return weight, replace(scale, **self.changes)


def declares(**changes: Any) -> type[Sound]:
    return type("Declares", (Declares,), {"changes": changes})


class LeavesPlain(Sound):
    def tensors(self, part: LinearPart) -> None:
        return None


class ChangesItsMind(Sound):
    asked = 0

    def tensors(self, part: LinearPart) -> Any:
        self.asked += 1
        return (super().tensors(part) or ())[: 1 + self.asked % 2]


class ReadsAWholeRowOfScales(Sound):
    """Right for the whole layer; a rank's share of the inputs gets the scales of the first groups."""

    def tensors(self, part: LinearPart) -> Any:
        weight, scale = super().tensors(part) or ()
        return weight, replace(scale, in_dim=None)

    def weight(self, whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return dequantize(whole, scale[:, : whole.shape[1] // GROUP].contiguous())


class DividesByItsScale(Sound):
    """Sound, but for tensors that nobody has told it the span of."""

    def tensors(self, part: LinearPart) -> Any:
        weight, scale = super().tensors(part) or ()
        return weight, replace(scale, span=(-1.0, 1.0))

    def weight(self, whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return dequantize(whole, scale.sqrt().square())


class TrustsItsConfig(Sound):
    def __init__(self, context: QuantContext) -> None:
        super().__init__(
            replace(context, config={**context.config, "group_size": int(context.config.get("group_size", 32))})
        )


class ForgetsToScale(Sound):
    def linear(self, parts: Any, tensors: Any, bias: Any) -> Any:
        if not self.online:
            return super().linear(parts, tensors, bias)
        return Kernel(torch.cat([given["weight"] / 2 for given in tensors]), bias)
