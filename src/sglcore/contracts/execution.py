"""Getting a step onto a device and its result back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from sglcore.batch import Batch, StepResult

T = TypeVar("T")


class Pending(Protocol):
    """Work that was queued."""

    def wait(self) -> Any:
        """Block until done; returns the result or raises what the work raised."""
        ...


class Launcher(Protocol):
    """Runs functions on the device in the order queued (one stream)."""

    def launch(self, work: Callable[[], Any]) -> Pending:
        """Queue `work`; returns at once where the device allows."""
        ...

    def close(self) -> None:
        """Wait for what is queued, then free threads and streams. Idempotent."""
        ...


class StepExecutor(Protocol):
    """The engine's view of who computes: launch in two halves, results in order.

    `forward(batch)` queues the model; `sample(batch, masks)` queues the sampler behind it and
    returns the Pending whose `wait()` is the batch's StepResult. Between the two the engine
    commits the step before and fills grammar masks on the CPU.
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


class PendingStep(Protocol):
    """A step in flight."""

    def wait(self) -> StepResult:
        """Block until the step's tokens are on the host."""
        ...
