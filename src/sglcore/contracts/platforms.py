"""Hardware platforms: device, memory, kernels and how work is launched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    import torch

    from sglcore.contracts.execution import Launcher
    from sglcore.contracts.ops import Ops


@dataclass(frozen=True, kw_only=True)
class PlatformSpec(Spec):
    """A platform. device: torch device type. priority: `--device auto` takes the highest available."""

    device: str = "cpu"
    priority: int = 0
    overlap: bool = True  # whether the overlapped loop wins here when nobody says otherwise
    chunked_prefill_size: int = 2048
    max_running_requests: int = 256


class Platform(Protocol):
    """One device of one process. Built in the engine process, once."""

    device: torch.device

    def unavailable(self) -> str | None:
        """None if the hardware is there; else why not, with the remedy. Must not initialise it."""
        ...

    def default_dtype(self, wanted: torch.dtype) -> torch.dtype:
        """The compute dtype for a checkpoint stored as `wanted` when the user says auto."""
        ...

    def ops(self) -> Ops:
        """The kernel table for this device."""
        ...

    def launcher(self) -> Launcher:
        """How step functions get onto the device, in order."""
        ...

    def free_memory(self) -> int:
        """Bytes that could be allocated now for the KV pool, leaving room for activations."""
        ...
