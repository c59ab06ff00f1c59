"""Control calls that the native dialect adds to an engine. Runs in the engine's process, between its steps."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglcore.native.dials import DialBoard
from sglcore.native.engine_steps import Steps
from sglcore.native.profiler import Profiler

if TYPE_CHECKING:
    from sglcore.engine.engine import Engine

CALLS = f"{__name__}:engine_calls"  # as `EngineProcess` takes it


def engine_calls(engine: Engine) -> dict[str, Callable[..., Any]]:
    """By name."""
    steps = Steps(engine)
    profiler = Profiler(engine, steps)
    return {
        "start_profile": profiler.start,
        "stop_profile": profiler.stop,
        "profile_state": profiler.state,
        "set_internal_state": DialBoard(engine).turn,
        "freeze_gc": freeze_gc,
        "slow_down": Brake(steps).set,
    }


def freeze_gc() -> int:
    """Collect, then take what is left out of later collections; returns how many objects that are."""
    gc.collect()
    gc.freeze()
    return gc.get_freeze_count()


class Brake:
    """Delays each step, so that a test meets a slow engine."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._seconds = 0.0

    def set(self, seconds: float) -> None:
        """Seconds before each forward pass; 0 for none."""
        if bool(seconds) != bool(self._seconds):
            (self._steps.watch if seconds else self._steps.leave)(self._wait, _nothing)
        self._seconds = seconds

    def _wait(self) -> None:
        time.sleep(self._seconds)


def _nothing() -> None:
    """After a step nothing is to be done."""
