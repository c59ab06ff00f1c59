"""Profiles of an engine's steps with torch's profiler, in the engine's process, as Chrome traces.

A trace is collected in memory, so a profile ends by itself after MOST_STEPS. It is written in a thread of its own,
under another name until it is whole. Whatever fails here is told and is no end of the engine.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sglcore.errors import RequestError
from sglcore.native.engine_steps import Steps

if TYPE_CHECKING:
    from sglcore.engine.engine import Engine

log = logging.getLogger("sglcore.engine")

MOST_STEPS = 1000
SUFFIX = ".trace.json.gz"


class ProfilePlan(msgspec.Struct, frozen=True):
    """path: of the trace, ends with SUFFIX. start_step: of the engine's steps; None: the next one."""

    path: str
    activities: tuple[str, ...]  # CPU, GPU
    num_steps: int = MOST_STEPS
    start_step: int | None = None
    with_stack: bool = False
    record_shapes: bool = False


class ProfileState(msgspec.Struct):
    """What `/start_profile` and `/stop_profile` tell. error: why the latest one could not be written."""

    running: bool = False
    writing: bool = False
    path: str = ""
    steps: int = 0
    error: str = ""


class Profiler:
    """Of one engine; one profile at a time. Not thread-safe: the engine's loop calls it."""

    def __init__(self, engine: Engine, steps: Steps) -> None:
        self._engine = engine
        self._steps = steps
        self._plan: ProfilePlan | None = None
        self._to_wait = 0  # steps before the profile begins
        self._profile: Any = None  # torch.profiler.profile, while it records
        self._state = ProfileState()

    def start(self, plan: dict[str, Any]) -> dict[str, Any]:
        """`plan` as ProfilePlan. Raises RequestError while another runs or is written, or without such a device."""
        if self._state.running or self._state.writing:
            raise RequestError(
                f"A profile is being {'taken' if self._state.running else 'written'}.",
                code="profile_running",
                remedy="POST /stop_profile, or wait for its end.",
            )
        asked = msgspec.convert(plan, ProfilePlan)
        _check_activities(asked.activities)
        self._plan, self._state = asked, ProfileState(running=True, path=asked.path)
        self._to_wait = max((asked.start_step or 0) - self._engine.steps, 0)
        self._steps.watch(self._before, self._after)
        return self.state()

    def stop(self) -> dict[str, Any]:
        """End the profile; its trace is being written then. Raises RequestError where none is taken."""
        if not self._state.running and not self._state.writing:
            latest = f" The latest is {self._state.path}." if self._state.path else ""
            latest = f" The latest failed: {self._state.error}." if self._state.error else latest
            raise RequestError(
                f"No profile is being taken.{latest}", code="profile_not_running", remedy="POST /start_profile."
            )
        if self._state.running:
            self._end()
        return self.state()

    def state(self) -> dict[str, Any]:
        """See ProfileState."""
        return msgspec.structs.asdict(self._state)

    def _before(self) -> None:
        """Before a step."""
        if self._to_wait:
            self._to_wait -= 1
        elif self._profile is None and self._plan is not None:
            try:
                self._profile = _started(self._plan)
            except Exception as error:
                self._failed(error)
                self._end()

    def _after(self) -> None:
        """A step has landed."""
        if self._profile is None or self._plan is None:
            return
        self._state.steps += 1
        if self._state.steps >= self._plan.num_steps:
            self._end()

    def _end(self) -> None:
        self._steps.leave(self._before, self._after)
        profile, plan, self._profile, self._plan = self._profile, self._plan, None, None
        self._state.running = False
        if profile is None or plan is None:  # it was stopped before its first step
            self._state.path = ""
            return
        try:
            profile.stop()
        except Exception as error:
            self._failed(error)
            return
        self._state.writing = True
        threading.Thread(target=self._write, args=(profile, plan.path), name="profile-writer", daemon=True).start()

    def _write(self, profile: Any, path: str) -> None:
        part = path.removesuffix(SUFFIX) + ".part.json.gz"
        try:
            profile.export_chrome_trace(part)
            Path(part).replace(path)
            log.info("A profile of %d steps was written to %s.", self._state.steps, path)
        except Exception as error:
            self._failed(error)
            Path(part).unlink(missing_ok=True)
        finally:
            self._state.writing = False

    def _failed(self, error: Exception) -> None:
        log.error("A profile could not be taken.", exc_info=error)
        self._state.error = f"{type(error).__name__}: {error}"


def _check_activities(names: tuple[str, ...]) -> None:
    from torch import accelerator
    from torch.profiler import ProfilerActivity, supported_activities

    there = accelerator.is_available() and ProfilerActivity.CUDA in supported_activities()
    if "GPU" in names and not there:
        raise RequestError("`activities` names GPU, and this engine has none.", param="activities", remedy="Name CPU.")


def _started(plan: ProfilePlan) -> Any:
    from torch.profiler import ProfilerActivity, _ExperimentalConfig, profile

    kinds = {"CPU": ProfilerActivity.CPU, "GPU": ProfilerActivity.CUDA}
    activities = [kinds[name] for name in plan.activities]
    started = profile(
        activities=activities,
        with_stack=plan.with_stack,
        record_shapes=plan.record_shapes,
        experimental_config=_ExperimentalConfig(profile_all_threads=True),  # the device has a thread of its own
    )
    started.start()
    return started
