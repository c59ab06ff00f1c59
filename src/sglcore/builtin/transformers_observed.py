"""What the parts of a Transformers model were called with and gave in a trial run, to compare stand-ins with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}  # a few roundings of the largest value


@dataclass(slots=True)
class Observed:
    """One module's only call. inputs: by child that is a plain linear map, the tensors that it was given."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: torch.Tensor | None = None
    inputs: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    calls: int = 0

    @property
    def usable(self) -> bool:
        """Whether there is something to compare with."""
        return self.calls == 1 and self.output is not None

    def error_of(self, module: nn.Module) -> float:
        """How far the module, called the same way again, is off: see `error`; infinite where it fails."""
        assert self.output is not None
        try:
            with torch.no_grad():
                got = _first(module(*map(_copy, self.args), **{k: _copy(v) for k, v in self.kwargs.items()}))
        except (RuntimeError, TypeError, AttributeError, ValueError, AssertionError):
            return float("inf")
        return float("inf") if got is None else error(got, self.output)


def observe(modules: Iterable[nn.Module], run: Callable[[], object]) -> dict[nn.Module, Observed]:
    """Call `run` once and write down what it asks of `modules`, and of the linear maps right below them."""
    seen: dict[nn.Module, Observed] = {}
    handles = []
    for module in modules:
        found = seen[module] = Observed()
        handles.append(module.register_forward_pre_hook(_before(found), with_kwargs=True))
        handles.append(module.register_forward_hook(_after(found)))
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                handles.append(child.register_forward_pre_hook(_given(found.inputs.setdefault(name, []))))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference within a row, as a share of the row's largest value; infinite for another shape or type.

    A row lies along the last dimension. One that overflows where it is wanted tells nothing, and is passed over.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("inf")
    told = wanted.isfinite().all(-1)
    if not told.any():
        return float("inf")
    exact = wanted[told].double()
    off = (got[told].double() - exact).abs().amax(-1)
    share = off / exact.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(share.nan_to_num(float("inf")).max())


def fits(off: float, dtype: torch.dtype) -> bool:
    """Whether rounding explains the error."""
    return off <= TOLERANCE.get(dtype, 0.0)


def _before(found: Observed) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.calls += 1
        found.args, found.kwargs = tuple(map(_copy, args)), {k: _copy(v) for k, v in kwargs.items()}

    return hook


def _after(found: Observed) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        found.output = _copy(_first(output))

    return hook


def _given(inputs: list[torch.Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.extend(args[:1])

    return hook


def _first(output: Any) -> torch.Tensor | None:
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, torch.Tensor) else None


def _copy(value: Any) -> Any:
    """Of a tensor a copy, for a module may write into what it was given."""
    return value.clone() if isinstance(value, torch.Tensor) else value
