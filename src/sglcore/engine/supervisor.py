"""Supervisor: keeps one engine running. It notices a death or a hang, starts another, and has the client replay.

Lives in the API process, in the thread that watches the engine's output. Restarts are bounded per time window: an
engine that keeps dying is left dead, and the server says that it is not ready instead of trying for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from sglcore.config import EngineConfig
from sglcore.engine.blackbox import in_flight
from sglcore.engine.child import Beat
from sglcore.engine.phases import Progress
from sglcore.engine.workers import EngineProcess
from sglcore.errors import SglcoreError

log = logging.getLogger("sglcore.engine")

CHECK_SECONDS = 1.0


class EngineUser(Protocol):
    """Who is told of an engine's death and of the next one: a client, or who speaks for several."""

    def from_thread(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Run one of the three below where its owner's event loop runs."""

    def suspend(self) -> None:
        """The engine is gone."""

    def resume(self, address: str, in_flight: set[bytes]) -> None:
        """Another one listens at `address`; `in_flight` is what the old one's black box says."""

    def fail(self, reason: str) -> None:
        """There will be none again."""


class Supervisor:
    """One engine process after another, behind one client."""

    def __init__(self, make: Callable[[], EngineProcess], limits: EngineConfig) -> None:
        self._make = make
        self._limits = limits
        self._engine = make()
        self._restarts: deque[float] = deque()  # when, monotonic
        self._stopping = threading.Event()
        self._client: EngineUser | None = None
        self.restarts = 0
        self.last_beat = time.monotonic()
        self.resumed_in = 0.0  # seconds from the latest death to the replay

    @property
    def address(self) -> str:
        """Where the first engine listens."""
        return self._engine.address

    @property
    def pid(self) -> int:
        return self._engine.pid

    def wait_ready(self, tell: Callable[[Progress], None]) -> dict[str, Any]:
        """The first start: what keeps the engine from it is the caller's to report."""
        return self._engine.wait_ready(tell)

    def watch(self, client: EngineUser) -> None:
        """From now on deaths are followed by restarts."""
        self._client = client
        self._watch()
        threading.Thread(target=self._check_beats, name="engine-beats", daemon=True).start()

    def stop(self) -> None:
        """End the engine for good. Idempotent."""
        self._stopping.set()
        self._engine.stop()

    def _watch(self) -> None:
        self.last_beat = time.monotonic()
        engine = self._engine
        engine.watch(lambda reason: self._died(engine, reason), self._beat)

    def _beat(self, beat: Beat) -> None:
        self.last_beat = time.monotonic()

    def _check_beats(self) -> None:
        """An engine so wedged that not even its own watchdog runs is killed from here."""
        while not self._stopping.wait(CHECK_SECONDS):
            silent = time.monotonic() - self.last_beat
            if silent > self._limits.watchdog_timeout:
                log.error("The engine process has given no sign of life for %.0f s; it is killed.", silent)
                self.last_beat = time.monotonic()
                self._engine.kill()

    def _died(self, engine: EngineProcess, reason: str) -> None:
        client = self._client
        if self._stopping.is_set() or client is None:
            return
        start = time.monotonic()
        client.from_thread(client.suspend)
        suspects = in_flight(engine.black_box)
        log.error("The engine died: %s Requests in the steps in flight: %d.", reason, len(suspects))
        engine.stop()
        fresh = self._restarted(reason)
        if fresh is None:
            return
        self._engine = fresh
        self._watch()
        client.from_thread(client.resume, fresh.address, suspects)
        self.resumed_in = time.monotonic() - start
        log.warning("The engine runs again, after %.1f s.", self.resumed_in)

    def _restarted(self, reason: str) -> EngineProcess | None:
        """A ready engine; None when the supervisor was stopped or has given up."""
        while not self._stopping.is_set():
            if not self._may_restart():
                self._give_up(reason)
                return None
            self.last_beat = time.monotonic() + 3600.0  # a start may be silent for long
            engine = self._make()
            self._engine = engine  # so that `stop` finds it
            try:
                engine.wait_ready(lambda progress: None)
                return engine
            except SglcoreError as error:
                engine.stop()
                reason = str(error)
                log.error("The engine could not be restarted: %s", reason)
        return None

    def _may_restart(self) -> bool:
        now = time.monotonic()
        while self._restarts and self._restarts[0] < now - self._limits.engine_restart_window:
            self._restarts.popleft()
        if len(self._restarts) >= self._limits.max_engine_restarts:
            return False
        self._restarts.append(now)
        self.restarts += 1
        return True

    def _give_up(self, reason: str) -> None:
        text = (
            f"{reason} The engine was restarted {len(self._restarts)} times in "
            f"{self._limits.engine_restart_window:.0f} s and is left dead."
        )
        log.error("%s", text)
        client = self._client
        if client is not None:
            client.from_thread(client.fail, text)
