"""Puts the platform's kernels in the place of known parts of a loaded Transformers model, where they compute the same.

Every stand-in is compared with what it replaces, at load, on this model's own weights; one that is further off than
rounding explains is not used. What became of each kind of module is kept in a table.

A table of ops that lacks some of `FUSIONS` serves linear maps and norms only, one by one.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sglcore.builtin.transformers_modules import (
    JointLinear,
    JointPart,
    OpsEmbedding,
    OpsGatedMLP,
    OpsLinear,
    OpsRMSNorm,
)
from sglcore.builtin.transformers_observed import Observed, error, fits, observe
from sglcore.builtin.transformers_rope import APPLY, Apply, Rotation, plain_apply, rebind
from sglcore.builtin.transformers_swap_table import LEFT, SwapTable
from sglcore.errors import ConfigError
from sglcore.layers import reference

if TYPE_CHECKING:
    from sglcore.contracts.ops import Ops

SWITCH = "SGLCORE_FALLBACK_SWAPS"  # 0 leaves every module as Transformers made it
FUSIONS = ("embedding", "rope", "silu_mul")
GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
# (scale, shift) of the rows that modules are tried on: a norm's epsilon shows in small ones, a mean in shifted ones.
ROWS = ((1.0, 0.0), (1e-3, 0.0), (30.0, 0.0), (1.0, 2.0))


def switched_on() -> bool:
    """What the environment says."""
    return os.environ.get(SWITCH, "1") != "0"


def use_ops(model: nn.Module, ops: Ops, run: Callable[[], object]) -> SwapTable:
    """Swap what can be swapped. run: calls the whole model once, on a few tokens.

    Only exact types and plain forms are touched: a subclass may compute something else. Raises ConfigError where a
    kernel is wrong and has spoilt the weights that it was given.
    """
    table = SwapTable()
    if all(hasattr(ops, name) for name in FUSIONS):
        _swap_gated(model, ops, table)
        seen = observe([m for m in model.modules() if len(_linears(m)) > 1 or plain_apply(m)], run)
        rotations: dict[Apply, Rotation] = {}
        for module, observed in seen.items():
            if observed.usable and not _is_hooked(module):
                _swap_joint(module, observed, ops, table)
                _swap_rotation(module, observed, ops, rotations, table)
        _swap_each(model, lambda child: _embedding(child, ops, table))
    _swap_each(model, lambda child: _linear(child, ops, table) or _norm(child, ops, table))
    return table


def _swap_each(model: nn.Module, stand_in: Callable[[nn.Module], nn.Module | None]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            new = None if _is_hooked(child) else stand_in(child)
            if new is not None:
                setattr(parent, name, new)


def _swap_gated(model: nn.Module, ops: Ops, table: SwapTable) -> None:
    def stand_in(child: nn.Module) -> nn.Module | None:
        if not _is_gated(child):
            return None
        parts: Any = child
        sample = _sample(parts.gate_proj.weight)
        wanted = child(sample)
        new = OpsGatedMLP(ops, parts.gate_proj, parts.up_proj, parts.down_proj)
        off = _tried(lambda: error(new(sample), wanted))
        return _verdict(child, new, "linear(gate, up), silu_mul, linear", off, table, lambda: child(sample), wanted)

    _swap_each(model, stand_in)


def _is_gated(module: nn.Module) -> bool:
    """Whether its forward speaks of nothing but the four parts, whose activation is SiLU."""
    code = getattr(type(module).forward, "__code__", None)
    if code is None or set(code.co_names) != GATED or code.co_argcount != 2 or code.co_freevars:
        return False
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(type(part) is nn.Linear and not _is_hooked(part) for part in parts):
        return False
    gate, up, down = (part for part in parts if isinstance(part, nn.Linear))
    owned = sum(1 for _ in module.parameters())
    if owned != sum(1 for part in (gate, up, down) for _ in part.parameters()) or not _alike((gate, up)):
        return False
    sample = _sample(gate.weight, 64).float()
    act: Any = module.act_fn
    return fits(_tried(lambda: error(act(sample), nn.functional.silu(sample))), sample.dtype)


def _swap_joint(module: nn.Module, observed: Observed, ops: Ops, table: SwapTable) -> None:
    """One product for the linear maps right below `module` that were given the same tensor."""
    layers = _linears(module)
    for names in _sharing(observed, layers):
        parts = [layers[name] for name in names]
        joint = JointLinear(ops, parts)
        for index, name in enumerate(names):
            setattr(module, name, JointPart(joint, index, parts[index]))
        off = observed.error_of(module)
        good = fits(off, parts[0].weight.dtype)
        table.add(f"{type(module).__name__}: {', '.join(names)}", "one linear" if good else LEFT, off)
        if not good:
            for name, layer in zip(names, parts, strict=True):
                setattr(module, name, layer)


def _sharing(observed: Observed, layers: dict[str, nn.Linear]) -> Iterator[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, given in observed.inputs.items():
        if len(given) == 1 and name in layers:
            groups.setdefault(id(given[0]), []).append(name)  # the tensors live, so ids tell them apart
    for names in groups.values():
        if len(names) > 1 and _alike([layers[name] for name in names]):
            yield names


def _alike(layers: Sequence[nn.Linear]) -> bool:
    """Whether their weights can stand in one matrix."""
    kinds = {(x.in_features, x.weight.dtype, x.weight.device, x.bias is None) for x in layers}
    return len(kinds) == 1


def _swap_rotation(
    module: nn.Module, observed: Observed, ops: Ops, rotations: dict[Apply, Rotation], table: SwapTable
) -> None:
    plain = plain_apply(module)
    if plain is None:
        return
    rotation = rotations.setdefault(plain, Rotation(ops, plain))
    kind = f"{type(module).__name__}: {APPLY}"
    if not fits(rotation.apart, torch.float32):
        table.add(kind, LEFT, rotation.apart)
        return
    before = rotation.turned
    rebind(module, rotation)
    off = observed.error_of(module)
    good = fits(off, observed.output.dtype if observed.output is not None else torch.float32)
    used = rotation.turned > before
    if used:
        table.add(kind, "rope" if good else LEFT, off)
    if not (good and used):
        del module.forward


def _embedding(module: nn.Module, ops: Ops, table: SwapTable) -> nn.Module | None:
    if type(module) is not nn.Embedding or module.max_norm is not None:
        return None
    ids = torch.arange(min(3, module.num_embeddings), device=module.weight.device)
    wanted = module(ids)
    new = OpsEmbedding(ops, module)
    off = _tried(lambda: error(new(ids), wanted))
    return _verdict(module, new, "embedding", off, table, lambda: module(ids), wanted)


def _linear(module: nn.Module, ops: Ops, table: SwapTable) -> nn.Module | None:
    from transformers.pytorch_utils import Conv1D

    if type(module) is nn.Linear:
        weight, bias = module.weight.detach(), module.bias  # [out, in]
    elif type(module) is Conv1D:
        weight, bias = module.weight.detach().t().contiguous(), module.bias  # stored [in, out]
    else:
        return None
    sample = _sample(weight)
    wanted = module(sample)
    new = OpsLinear(ops, weight, None if bias is None else bias.detach())
    off = _tried(lambda: error(new(sample), wanted))
    return _verdict(module, new, "linear", off, table, lambda: module(sample), wanted)


def _norm(module: nn.Module, ops: Ops, table: SwapTable) -> nn.Module | None:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    if not isinstance(eps, float) or weight is None or len(parameters) != 1 or weight.dim() != 1:
        return None
    if _takes(module) != 1 or next(module.buffers(), None) is not None or next(module.children(), None) is not None:
        return None
    value = weight.detach()
    sample = _sample(value)
    exact, wide = copy.deepcopy(module).float(), sample.float()
    # first: is it this norm at all, which no rounding hides in float32
    off = _tried(lambda: error(reference.rms_norm(wide, value.float(), eps), exact(wide)))
    if not fits(off, torch.float32):
        table.add(type(module).__name__, LEFT, off)
        return None
    wanted = module(sample)
    new = OpsRMSNorm(ops, value, eps)
    off = _tried(lambda: error(new(sample), wanted))
    return _verdict(module, new, "rms_norm", off, table, lambda: module(sample), wanted)


def _verdict(
    module: nn.Module,
    new: nn.Module,
    to: str,
    off: float,
    table: SwapTable,
    again: Callable[[], torch.Tensor],
    wanted: torch.Tensor,
) -> nn.Module | None:
    """The stand-in where its error is one of rounding; else None, the module being what it was."""
    good = fits(off, wanted.dtype)
    table.add(type(module).__name__, to if good else LEFT, off)
    if good:
        return new
    if not torch.equal(again(), wanted):
        raise ConfigError(
            f"The platform's {to} is wrong for a {type(module).__name__} of this model, and has changed its weights.",
            remedy=f"Start with {SWITCH}=0, and tell the author of the plugin that brings these ops.",
        )
    return None


def _sample(weight: torch.Tensor, size: int = 0) -> torch.Tensor:
    """[1, rows, size] of the weight's type, its last dimension wide unless told; the same numbers at each call."""
    generator = torch.Generator("cpu").manual_seed(0)
    rows = torch.randn(1, len(ROWS), size or weight.shape[-1], generator=generator, device="cpu")
    scale, shift = torch.tensor(ROWS, device="cpu").unsqueeze(-1).unbind(1)
    return (rows * scale + shift).to(weight.device, weight.dtype)


def _tried(compute: Callable[[], float]) -> float:
    """Infinite where it fails."""
    try:
        with torch.no_grad():
            return compute()
    except (RuntimeError, TypeError, ValueError, AssertionError):
        return float("inf")


def _takes(module: nn.Module) -> int:
    return len(inspect.signature(module.forward).parameters)


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {n: m for n, m in module.named_children() if type(m) is nn.Linear and not _is_hooked(m)}


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
