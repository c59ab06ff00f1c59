"""Whether a step of a Transformers model can be captured and replayed: found out by watching one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sglcore.errors import ConfigError

# Tags that torch gives to operators whose result the host must wait for, or whose numbers differ in each run.
TAGS = {
    torch.Tag.data_dependent_output: "reads a value from the device",
    torch.Tag.dynamic_output_shape: "makes a result whose size depends on values",
    torch.Tag.nondeterministic_seeded: "draws random numbers",
}
HOST_READS = {"item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__int__", "__float__", "__index__"}
HOST_DATA = {"tensor", "as_tensor", "asarray", "from_numpy", "frombuffer"}
# Their kernels read group sizes on the host for some types; no tag tells.
UNTAGGED = {"_grouped_mm", "_scaled_grouped_mm", "repeat_interleave", "bincount", "histc"}


class DeviceWaits(TorchDispatchMode):
    """Writes down operators that a capture does not survive. device: where all that the step makes should be."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator as it would."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        indexing = name.startswith("index")  # tagged, but its size depends on values only where a mask is given
        if not indexing:
            self.found += [f"{name} {why}" for tag, why in TAGS.items() if tag in func.tags]
        if name.startswith("lift_fresh"):  # where a list, or an index that is one, becomes a tensor
            self.found.append("a tensor is made from the host's data")
        if name in UNTAGGED:
            self.found.append(f"{name} may read sizes from the device")
        if indexing and _has_mask(args):
            self.found.append(f"{name} takes a mask, whose size depends on values")
        if any(isinstance(x, torch.Tensor) and x.device.type != self.device.type for x in tree_leaves(out)):
            self.found.append(f"{name} leaves a tensor on another device than {self.device.type}")
        return out


class HostCalls(TorchFunctionMode):
    """Writes down calls that bring values to the host or make tensors from the host's: below them no operator shows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Makes the call as it would."""
        name = getattr(func, "__name__", "")
        if name in HOST_READS:
            self.found.append(f"{name} reads a value from the device")
        elif name in HOST_DATA:
            self.found.append("a tensor is made from the host's data")
        return func(*args, **(kwargs or {}))


def hindrance(model: nn.Module, device: torch.device, step: Callable[[], object]) -> str | None:
    """Why a step cannot be captured, or None. step: runs the model once, on its device, as a decoding step would.

    Models with experts are not captured: their kernels are chosen, and their sizes read, by type and platform.
    """
    if experts := next((type(m).__name__ for m in model.modules() if hasattr(m, "experts")), None):
        return f"{experts} chooses among experts"
    waits, calls = DeviceWaits(device), HostCalls()
    try:
        # Not under a default device that a caller may have set: a step has none. Outside of inference mode operators
        # that are made of others come apart before they are seen.
        with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"), calls, waits:
            step()
    except ConfigError as error:
        return f"it does not run while it is watched: {error.message}"
    found = list(dict.fromkeys(calls.found + waits.found))
    return "; ".join(found[:4]) or None


def _has_mask(args: tuple[Any, ...]) -> bool:
    leaves = tree_leaves(args[1:])
    return any(isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) for x in leaves)
