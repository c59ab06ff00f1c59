"""Hardware platforms: device, memory, kernels and how work is launched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sglcore.contracts.spec import Spec, load_address

if TYPE_CHECKING:
    import torch

    from sglcore.contracts.execution import Collectives, Launcher, Rendezvous
    from sglcore.contracts.ops import Ops


@dataclass(frozen=True, kw_only=True)
class PlatformSpec(Spec):
    """A platform; its `probe` says without torch why the hardware is not there.

    device: torch device type. priority: `--device auto` takes the highest available.
    dtypes: compute types, torch's names; empty means any. kv_dtypes: of keys and values, beside the compute type.
    compute_dtype: `module:function(stored) -> name`, the compute type for a checkpoint stored as `stored` when the
        user says auto, both torch's names; imports no torch and agrees with `Platform.default_dtype`. "": the stored
        type, or the first of `dtypes` where that is none of them.
    tensor_parallel: has `Platform.join`. graph: steps can be captured and replayed.
    doctor: `module:function() -> list of checks` for `sglcore doctor`, run in a process of its own; the module imports
        no torch. A check is a dict of strings: `check`, what was looked at; `state`, "ok", "warning" or "problem";
        `found`; `remedy`, "" for none.
    """

    device: str = "cpu"
    priority: int = 0
    dtypes: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    compute_dtype: str = ""
    tensor_parallel: bool = False
    graph: bool = False
    overlap: bool = True  # whether the overlapped loop wins here when nobody says otherwise
    chunked_prefill_size: int = 2048  # prompt tokens a step, when nobody says otherwise
    max_running_requests: int = 256  # rows, when nobody says otherwise
    page_size: int = 1  # tokens in a KV page, when nobody says otherwise
    doctor: str = ""

    def dtype_for(self, stored: str) -> str:
        """The compute type for a checkpoint stored as `stored` when the user says auto."""
        if self.compute_dtype:
            return str(load_address(self.compute_dtype)(stored))
        return stored if not self.dtypes or stored in self.dtypes else self.dtypes[0]


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device. used: by tensors of this process; peak: the most that was since `reset_peak`; reserved: taken
    from the device by this process, `used` and what is kept for reuse; free: what the device could still give."""

    total: int
    free: int
    used: int
    peak: int
    reserved: int


class Platform(Protocol):
    """One device of one process. Built in the engine process, once, as `factory()`, which must not touch the hardware.

    Its methods are called while the engine is built, in the order in which they stand here, from the thread that builds
    it unless they say otherwise. What one raises stops the start.
    """

    device: torch.device  # where parameters, pool and activations live

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
        """How step functions get onto the device, in order; a `DeviceLauncher` where that is not the CPU."""
        ...

    def join(self, rendezvous: Rendezvous) -> Collectives:
        """Meet the other ranks; called once, on the device thread, before the model is built, in every rank's process.

        A platform without it serves one rank only.
        """
        ...

    def free_memory(self) -> int:
        """Bytes that could be allocated now for the KV pool, leaving room for activations.

        Where ranks share one memory, this rank's part of it.
        """
        ...


class MeasuredPlatform(Platform, Protocol):
    """A platform whose device has memory of its own: how much a step takes is measured, not guessed."""

    def memory(self) -> DeviceMemory:
        """What the device's memory holds now, for the plan of it."""
        ...

    def reset_peak(self) -> None:
        """Forget the peak that `memory` tells: it is measured from here on."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that was queued."""
        ...
