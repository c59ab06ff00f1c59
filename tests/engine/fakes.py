"""Executors without a model, for the engine's loop."""

from __future__ import annotations

import time
from typing import Any

from scheduler.fake import FakeRunner
from sglcore.batch import Batch, StepResult


class Done:
    def __init__(self, result: Any) -> None:
        self.result = result

    def wait(self) -> Any:
        return self.result


class InlineExecutor:
    """Runs the fake model at launch; remembers the order of calls."""

    def __init__(self, runner: FakeRunner) -> None:
        self.runner = runner
        self.events: list[str] = []

    def forward(self, batch: Batch) -> None:
        self.events.append(f"forward {batch.serial}")
        self._result = self.runner.run(batch)

    def sample(self, batch: Batch, masks: Any = None) -> Done:
        self.events.append(f"sample {batch.serial}")
        return Done(self._result)

    def close(self) -> None:
        self.events.append("close")


class TimedDevice:
    """An asynchronous device that takes a fixed time a step and no interpreter: like a GPU, it works while the
    host runs Python. `busy` logs when each step was on it."""

    def __init__(self, runner: FakeRunner, seconds: float) -> None:
        self.runner = runner
        self.seconds = seconds
        self.busy: dict[int, tuple[float, float]] = {}  # serial -> start, end
        self._free_at = 0.0

    def forward(self, batch: Batch) -> None:
        self._result = self.runner.run(batch)
        start = max(time.perf_counter(), self._free_at)
        self._free_at = start + self.seconds
        self.busy[batch.serial] = (start, self._free_at)

    def sample(self, batch: Batch, masks: Any = None) -> Landing:
        return Landing(self._result, self.busy[batch.serial][1])

    def close(self) -> None:
        pass


class Landing:
    def __init__(self, result: StepResult, at: float) -> None:
        self.result = result
        self.at = at

    def wait(self) -> StepResult:
        """The device's own time passes here, as in a stream synchronise."""
        time.sleep(max(0.0, self.at - time.perf_counter()))
        return self.result
