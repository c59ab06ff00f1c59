"""Watching an engine's steps from outside: what wants to know of them stands around its executor while it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglcore.batch import Batch, StepResult
from sglcore.contracts.execution import PendingStep, StepExecutor

if TYPE_CHECKING:
    from sglcore.engine.engine import Engine

Call = Callable[[], None]


class Steps:
    """Of one engine. `before` is called before each forward pass, `after` once a step's result was waited for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watchers: list[tuple[Call, Call]] = []

    def watch(self, before: Call, after: Call) -> None:
        """From the next step on. Called between two steps, as control calls are."""
        if not self._watchers:
            self._engine.executor = _WatchedExecutor(self._engine.executor, self._watchers)
        self._watchers.append((before, after))

    def leave(self, before: Call, after: Call) -> None:
        """No more. May be called from a watcher's own call."""
        self._watchers.remove((before, after))
        executor = self._engine.executor
        if not self._watchers and isinstance(executor, _WatchedExecutor):
            self._engine.executor = executor.own


class _WatchedExecutor:
    """Implements `StepExecutor` around another."""

    def __init__(self, own: StepExecutor, watchers: list[tuple[Call, Call]]) -> None:
        self.own = own
        self._watchers = watchers

    def forward(self, batch: Batch) -> None:
        for before, _ in tuple(self._watchers):
            before()
        self.own.forward(batch)

    def sample(self, batch: Batch, masks: Any = None) -> PendingStep:
        return _Watched(self.own.sample(batch, masks), [after for _, after in self._watchers])

    def close(self) -> None:
        self.own.close()


class _Watched:
    """A step in flight; those who watched when it was queued hear of its end."""

    __slots__ = ("_after", "_pending")

    def __init__(self, pending: PendingStep, after: list[Call]) -> None:
        self._pending, self._after = pending, after

    def wait(self) -> StepResult:
        result = self._pending.wait()
        after, self._after = self._after, []
        for call in after:
            call()
        return result
