"""Between the host's numbers and the device's: one copy for all arrays of a step, each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch

if TYPE_CHECKING:
    from sglcore.contracts.execution import DeviceLauncher, Launcher, Pending

ALIGNMENT = 16  # bytes: any dtype may start there


class Transfers(Protocol):
    """How arrays come to the device and results come back; called on the device thread, in the order of its stream."""

    shared: bool  # tensors are the host's own memory

    def send(self, *arrays: np.ndarray) -> list[torch.Tensor]:
        """The arrays as tensors on the device, of the same shapes and dtypes. On a CPU they may share memory."""
        ...

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Pending:
        """Queue copies to the host; `wait` gives numpy arrays."""
        ...


def transfers(launcher: Launcher, device: torch.device) -> Transfers:
    """Those of a device: what a CPU shares, others are sent."""
    return Shared() if device.type == "cpu" else Packed(cast("DeviceLauncher", launcher))


class Here:
    """What is there already. Implements `contracts.Pending`."""

    __slots__ = ("_arrays",)

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays = arrays

    def wait(self) -> list[np.ndarray]:
        return self._arrays


class Shared:
    """Host and device have one memory: nothing is copied."""

    shared = True

    def send(self, *arrays: np.ndarray) -> list[torch.Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Here:
        return Here([tensor.numpy() for tensor in tensors])


class Packed:
    """One copy each way, whatever the number of arrays."""

    shared = False

    def __init__(self, launcher: DeviceLauncher) -> None:
        self._launcher = launcher

    def send(self, *arrays: np.ndarray) -> list[torch.Tensor]:
        starts, end = [], 0
        for array in arrays:
            starts.append(end)
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        packed = np.empty(end, dtype=np.uint8)
        for start, array in zip(starts, arrays, strict=True):
            packed[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        sent = self._launcher.upload(packed)
        return [_part(sent, start, array) for start, array in zip(starts, arrays, strict=True)]

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Any:
        return self._launcher.download(tensors)


def _part(sent: torch.Tensor, start: int, array: np.ndarray) -> torch.Tensor:
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    return sent[start : start + array.nbytes].view(dtype).view(array.shape)
