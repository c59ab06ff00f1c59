"""Rotary embeddings of a Transformers model: made independent of the batch, and turned by the platform's kernel."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from sglcore.builtin.transformers_observed import error
from sglcore.layers.reference import rotate

if TYPE_CHECKING:
    from sglcore.contracts.ops import Ops

APPLY = "apply_rotary_pos_emb"  # what the modelling files of Transformers call theirs
Apply = Callable[..., tuple[torch.Tensor, torch.Tensor]]


class Rotation:
    """Stands in for one `apply_rotary_pos_emb`: `Ops.rope` where the call has the usual form, else the original.

    The usual form: q, k [1, heads, tokens, dim] and cos, sin [1, tokens, rotary_dim] whose halves repeat each other.
    Whether the halves do is not looked at in a step: the layers that use this are compared with the original when they
    are loaded. turned: calls that went to the kernel. apart: how far the original is from rotating halves, as
    `transformers_observed.error` tells it.
    """

    def __init__(self, ops: Ops, plain: Apply) -> None:
        self.ops, self.plain = ops, plain
        self.turned = 0
        self.apart = _apart(plain)
        self._tables: Any = WeakIdKeyDictionary()  # a step's cos -> its (sin, half of cos, half of sin), for all layers

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """-> the rotated (q, k), of the same shapes."""
        if args or kwargs or not _usual(q, k, cos):
            return self.plain(q, k, cos, sin, *args, **kwargs)
        self.turned += 1
        turned = self.ops.rope(q[0].transpose(0, 1), k[0].transpose(0, 1), *self._halves(cos, sin))
        a, b = (x.transpose(0, 1).unsqueeze(0) for x in turned)  # [1, heads, tokens, dim] over [tokens, heads, dim]
        return a, b

    def _halves(self, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [tokens, rotary_dim / 2] each, made once a step: all layers are given the same tensors."""
        known = self._tables.get(cos)
        if known is None or known[0] is not sin:
            half = cos.shape[-1] // 2
            # copies: a view would keep the step's table alive, and with it the entry
            known = self._tables[cos] = (sin, *(x[0, :, :half].to(torch.float32, copy=True) for x in (cos, sin)))
        return known[1], known[2]


def _usual(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor) -> bool:
    if q.dim() != 4 or k.dim() != 4 or cos.dim() != 3 or cos.shape[-1] % 2:
        return False
    if not q.shape[0] == k.shape[0] == cos.shape[0] == 1 or q.stride(-1) != 1 or k.stride(-1) != 1:
        return False
    return cos.shape[-1] <= q.shape[-1] == k.shape[-1] and q.shape[2] == k.shape[2] == cos.shape[1]


def _apart(plain: Apply) -> float:
    """In float32, on random numbers; infinite where it takes other arguments."""
    generator = torch.Generator("cpu").manual_seed(0)
    q, k = (torch.randn(1, heads, 3, 16, generator=generator, device="cpu") for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 3, 8, generator=generator, device="cpu")
    try:
        found = plain(q, k, torch.cat((cos, cos), -1), torch.cat((sin, sin), -1))
        wanted = [rotate(x[0].transpose(0, 1), cos[0], sin[0]).transpose(0, 1)[None] for x in (q, k)]
        return max(error(a, b) for a, b in zip(found, wanted, strict=True))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return float("inf")


def plain_apply(module: nn.Module) -> Apply | None:
    """The function that the module's forward rotates with; None where it has none of that name to put another for."""
    forward: Any = type(module).forward
    if not isinstance(forward, FunctionType) or "forward" in module.__dict__ or APPLY not in forward.__code__.co_names:
        return None
    found = forward.__globals__.get(APPLY)
    return found if callable(found) else None


def rebind(module: nn.Module, rotation: Rotation) -> None:
    """Give this one module a forward that calls `rotation`; other instances and the modelling file stay as they are.

    `del module.forward` undoes it.
    """
    forward: Any = type(module).forward
    names = {**forward.__globals__, APPLY: rotation}
    own = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    own.__kwdefaults__ = forward.__kwdefaults__
    module.__dict__["forward"] = MethodType(own, module)


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
