"""Verdicts: after a death, which worker's requests run again. The one `Recovery`, fed by several processes.

A worker that is told of a new engine reports what it has open, and waits. When all have reported, the quarantine
decides. What a worker tells between its report and that moment is kept and heard afterwards, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sglcore.engine.recovery import Opened, Recovery
from sglcore.server.worker_process import WorkerProcess

Late = tuple[str, WorkerProcess, str]


class Verdicts:
    """Belongs to the parent's event loop. `workers()` are those that are there now."""

    def __init__(self, workers: Callable[[], Iterable[WorkerProcess]]) -> None:
        self.recovery = Recovery()
        self._workers = workers
        self._in_flight: set[bytes] | None = None  # while reports are awaited
        self._late: list[Late] = []
        self.told = False  # workers think that requests have to wait

    @property
    def collecting(self) -> bool:
        """Whether reports are awaited."""
        return self._in_flight is not None

    def hold(self) -> None:
        """The engine has died."""
        self.recovery.held = True
        self._in_flight, self._late = None, []

    def collect(self, address: str, in_flight: set[bytes]) -> None:
        """A new engine listens at `address`: ask all for reports."""
        self._in_flight, self._late, self.told = in_flight, [], True
        for worker in self._workers():
            worker.opened = None
            worker.tell("resume", address=address)
        self.look()

    def report(self, worker: WorkerProcess, opened: list[Opened]) -> None:
        """A worker has answered."""
        worker.opened = opened
        self.look()

    def missing(self) -> list[WorkerProcess]:
        """Who has not reported yet."""
        return [worker for worker in self._workers() if self.collecting and worker.opened is None]

    def look(self) -> None:
        """Decide, if nobody is waited for; call when a report or a death has come."""
        if self._in_flight is None or self.missing():
            return
        in_flight, self._in_flight = self._in_flight, None
        self.recovery.died({worker: worker.opened or [] for worker in self._workers()}, in_flight)
        late, self._late = self._late, []
        for what, worker, rid in late:
            self._hear(what, worker, rid)
        self._clear()

    def hear(self, what: str, worker: WorkerProcess, rid: str) -> None:
        """A worker tells that a request waits, is cleared, or is gone."""
        if self.collecting and worker.opened is not None:
            self._late.append((what, worker, rid))
            return
        self._hear(what, worker, rid)
        self._clear()

    def left(self, worker: WorkerProcess) -> None:
        """A worker has died; it is none of `workers()` any more."""
        self._late = [late for late in self._late if late[1] is not worker]
        self.recovery.left(worker)
        self.look()
        self._clear()

    def _hear(self, what: str, worker: WorkerProcess, rid: str) -> None:
        if what == "wait":
            self.recovery.wait(worker, rid)
        elif what == "cleared":
            self.recovery.cleared(worker, rid)
        else:
            self.recovery.gone(worker, rid)

    def _clear(self) -> None:
        if self.told and not self.collecting and not self.recovery.held and not self.recovery.active:
            self.told = False
            for worker in self._workers():
                worker.tell("clear")
