"""What the planning needs of the device, and its stand-ins on a CPU, where tests run it."""

from __future__ import annotations

from typing import Protocol

import torch


class Event(Protocol):
    """The part of `torch.cuda.Event` that is used."""

    def record(self) -> None:
        """Mark the point that the stream has been given so far."""
        ...

    def synchronize(self) -> None:
        """Block until the device is past the mark."""
        ...


class NoEvent:
    """An event of a device that does everything at once."""

    def record(self) -> None:
        """Nothing is in flight."""

    def synchronize(self) -> None:
        """Nothing is in flight."""


def event(device: torch.device) -> Event:
    """One that may be waited for before it was recorded."""
    made: Event = torch.cuda.Event() if device.type == "cuda" else NoEvent()
    return made


def staging(size: int, device: torch.device) -> torch.Tensor:
    """int32 [size] on the host, from which copies to the device do not wait."""
    return torch.zeros(size, dtype=torch.int32, pin_memory=device.type == "cuda")


def capturing(device: torch.device) -> bool:
    """Whether what is queued now is recorded instead of run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def multiprocessors(device: torch.device) -> int:
    """Of the device; an H100's 132 on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def is_hopper(device: torch.device) -> bool:
    """Whether FlashAttention 3 kernels can run: compute capability 9.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
