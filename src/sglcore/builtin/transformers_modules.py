"""Replaces parts of a loaded Transformers model by the platform's kernels, where that changes no result."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from sglcore.contracts.ops import Ops


class OpsLinear(nn.Module):
    """A linear map on the platform's kernel, for inputs [..., in]."""

    def __init__(self, ops: Ops, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Some model code reads its layer's weight.dtype; this stand-in tells it and holds no memory.
        self.weight = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        self.op = ops.linear(weight, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        flat = x.reshape(-1, self.in_features).contiguous()  # [tokens, in]
        return self.op(flat).view(*x.shape[:-1], self.out_features)


class OpsRMSNorm(nn.Module):
    """Root-mean-square norm on the platform's kernel, over the last dimension."""

    def __init__(self, ops: Ops, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.ops, self.weight, self.eps = ops, nn.Parameter(weight, requires_grad=False), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., dim] -> the same shape."""
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        return self.ops.rms_norm(flat, self.weight, self.eps).view(x.shape)


def use_ops(model: nn.Module, ops: Ops) -> int:
    """Swap plain linear and RMSNorm modules for kernels of `ops`; returns how many were swapped.

    Only exact types are touched: a subclass may compute something else. A norm is swapped when the kernel gives
    what the module gives, tried on random input.
    """
    swapped = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            new = _linear(child, ops) or _norm(child, ops)
            if new is not None:
                setattr(parent, name, new)
                swapped += 1
    return swapped


def _linear(module: nn.Module, ops: Ops) -> OpsLinear | None:
    from transformers.pytorch_utils import Conv1D

    if _is_hooked(module):
        return None
    if type(module) is nn.Linear:
        weight = module.weight.detach()  # [out, in]
        return OpsLinear(ops, weight, None if module.bias is None else module.bias.detach())
    if type(module) is Conv1D:
        weight = module.weight.detach().t().contiguous()  # stored [in, out]
        return OpsLinear(ops, weight, module.bias.detach())
    return None


def _norm(module: nn.Module, ops: Ops) -> OpsRMSNorm | None:
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not type(module).__name__.endswith("RMSNorm") or _is_hooked(module):
        return None
    if not isinstance(eps, float) or not isinstance(weight, torch.Tensor) or weight.dim() != 1:
        return None
    if len(inspect.signature(module.forward).parameters) != 1:
        return None
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(3, weight.shape[0], generator=generator).to(weight.device, weight.dtype)
    wanted = module(sample)
    got = ops.rms_norm(sample, weight.detach(), eps)
    exact = got.dtype == wanted.dtype and torch.allclose(got, wanted, rtol=1e-5, atol=1e-5)
    return OpsRMSNorm(ops, weight.detach(), eps) if exact else None


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def pin_rope(model: nn.Module, max_positions: int) -> None:
    """Stop rotary embeddings from choosing frequencies by the longest position of the step.

    Transformers does so for the types "dynamic" and "longrope"; with many rows in a step and keys in a cache,
    one row's length would change another's result. "longrope" takes its long factors when the config allows
    positions past the original length and else the short ones; "dynamic" keeps its base frequencies,
    which are right up to the length of the config.
    """
    for module in model.modules():
        kinds: Any = getattr(module, "rope_type", None)
        if isinstance(kinds, str):
            module.__dict__["rope_type"] = _pinned(module, kinds, max_positions, {})
        elif isinstance(kinds, dict):
            pinned = {k: _pinned(module, v, max_positions, {"layer_type": k}) for k, v in kinds.items()}
            module.__dict__["rope_type"] = pinned


def _pinned(module: nn.Module, kind: str, max_positions: int, kwargs: dict[str, str]) -> str:
    buffer = next(module.buffers(), None)
    if kind == "longrope" and buffer is not None and not buffer.is_meta:
        # Called with the last position there can be, it settles on its factors.
        last = torch.full((1, 1), max_positions - 1, device=buffer.device)
        module(torch.empty(1, 1, 1, device=buffer.device, dtype=buffer.dtype), last, **kwargs)
    return "pinned" if kind == "longrope" or "dynamic" in kind else kind
