"""The engine's own watchdog: a thread that tells the parent of the loop's progress and ends a process that hangs."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from sglcore.engine.child import Beat, Failed, Say
from sglcore.engine.loop import EngineLoop

BEAT_SECONDS = 1.0
WEDGED = 70  # exit status: internal software error (sysexits.h)


class Watchdog:
    """Beats once a second; after `timeout` seconds in one turn it dumps what was running and ends the process."""

    def __init__(self, loop: EngineLoop, say: Say, timeout: float, leave: Callable[[int], None] = os._exit) -> None:
        self._loop = loop
        self._say = say
        self._timeout = timeout
        self._leave = leave
        self._turns = -1
        self._since = time.monotonic()

    def start(self) -> None:
        """Run in a thread for the rest of the process's life."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            threading.Event().wait(BEAT_SECONDS)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """One beat at monotonic time `now`."""
        loop = self._loop
        if loop.turns != self._turns or loop.waiting:
            self._turns, self._since = loop.turns, now
        if now - self._since > self._timeout:
            self._bark(now - self._since)
            return
        with suppress(OSError):  # the parent is gone; its own watch ends this process
            self._say(Beat(loop.turns, not loop.waiting))

    def _bark(self, seconds: float) -> None:
        print(f"sglcore: no step has ended for {seconds:.0f} s. {state(self._loop)}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        try:
            self._say(Failed("EngineDead", f"A step took longer than {self._timeout:.0f} s (--watchdog-timeout)."))
        finally:
            self._leave(WEDGED)


def state(loop: EngineLoop) -> str:
    """What the engine was doing, in a line a row; reads without locks, for a process about to end."""
    scheduler = loop.engine.scheduler
    rows = scheduler.rows
    lines = [f"Running {scheduler.running}, waiting {len(scheduler.queue)}, steps {loop.engine.steps}:"]
    for row, branch in enumerate(list(scheduler.seated)):
        if branch is not None:
            done, total = int(rows.computed[row]), int(rows.target[row])
            lines.append(f"  row {row}: {branch.rid}[{branch.index}], {done} of {total} tokens computed")
    return "\n".join(lines)
