"""Getting a step onto a device and its result back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sglcore.batch import Batch, StepResult

T = TypeVar("T")


class Pending(Protocol):
    """Work that was queued. Owned by who queued it; waited for once."""

    def wait(self) -> Any:
        """Block until done; returns the result or raises what the work raised."""
        ...


class Launcher(Protocol):
    """Runs functions on the device in the order queued (one stream), all in one thread: the device thread.

    Made by `Platform.launcher`, one per rank. `launch` is called from the engine's loop thread and from functions that
    it runs.
    """

    def launch(self, work: Callable[[], Any]) -> Pending:
        """Queue `work`; returns at once where the device allows."""
        ...

    def close(self) -> None:
        """Wait for what is queued, then free threads and streams. Idempotent."""
        ...


class Replay(Protocol):
    """Work that was captured: the same kernels over the same memory, as often as wanted."""

    def replay(self) -> None:
        """Queue it. Returns at once; what the work returned when it was captured holds the results."""
        ...


class DeviceLauncher(Launcher, Protocol):
    """A launcher of a device with memory of its own; what it queues goes onto the one stream, in order."""

    def upload(self, array: np.ndarray, into: torch.Tensor | None = None) -> torch.Tensor:
        """Queue a copy of a contiguous array to the device: a new tensor, or `into`, of the same dtype and size.

        The array may be changed as soon as this returns.
        """
        ...

    def download(self, tensors: Sequence[torch.Tensor]) -> Pending:
        """Queue copies to the host; what is waited for is the list of numpy arrays, the caller's."""
        ...

    def capture(self, work: Callable[[], Any]) -> tuple[Replay, Any]:
        """Run `work` once to warm up, then record it, without running it; returns how to replay it, and its result.

        All that is captured shares one pool of memory: a result is overwritten by any later replay, unless it lies in
        memory that `work` was given. Only where the platform's Spec declares `graph`.
        """
        ...


class StepExecutor(Protocol):
    """The engine's view of who computes: launch in two halves, results in order.

    `forward(batch)` queues the model; `sample(batch, masks)` queues the sampler behind it and
    returns the Pending whose `wait()` is the batch's StepResult. Between the two the engine
    commits the step before and fills grammar masks on the CPU. Called from the loop thread only.
    """

    def forward(self, batch: Batch) -> None:
        """Queue the forward pass of a plan. An idle batch is legal."""
        ...

    def sample(self, batch: Batch, masks: Any = None) -> PendingStep:
        """Queue sampling for the batch given to the last `forward`."""
        ...

    def close(self) -> None:
        """Release the device. Idempotent."""
        ...


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of one model meet.

    rank, size: this process is `rank` of `size`. store: path of a file all of them can open.
    """

    rank: int
    size: int
    store: str


class Collectives(Protocol):
    """A process group over tensor-parallel ranks, made by `Platform.join`.

    Every rank calls the same methods in the same order, on the device thread. An error (a rank that is gone, a
    time limit) is raised by the call and ends the engine.
    """

    rank: int  # this process, from 0
    size: int  # ranks in the group

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, written into `x`, which is returned. Every rank gets the same bits."""
        ...

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Rank 0's values, written into `x` (same shape and dtype on all ranks), which is returned."""
        ...

    def least(self, value: int) -> int:
        """The smallest of the ranks' values; while starting only."""
        ...

    def close(self) -> None:
        """Leave the group. Idempotent; does not wait for others."""
        ...


class PendingStep(Protocol):
    """A step in flight."""

    def wait(self) -> StepResult:
        """Block until the step's tokens are on the host."""
        ...
