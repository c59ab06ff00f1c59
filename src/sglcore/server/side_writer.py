"""SideWriter: a thread that writes lines and files, so that no disk and no long text makes the event loop wait."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

log = logging.getLogger("sglcore.server")

MAX_WAITING = 10_000  # pieces of work; more are dropped, and that is told
CLOSE_SECONDS = 5.0
TELL_EVERY = 10.0  # seconds between two warnings of the same kind
PRIVATE = 0o600

Work = Callable[[], None]


class SideWriter:
    """Does pieces of work one after another, in order. The thread starts with the first. Safe across threads."""

    def __init__(self, waiting: int = MAX_WAITING) -> None:
        self.dropped = self.failed = 0
        self._queue: queue.Queue[Work | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._told = 0.0

    def put(self, work: Work) -> bool:
        """Have it done soon; False where it was dropped because too much waits."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="side-writer", daemon=True)
                self._thread.start()
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            self.dropped += 1
            self._tell("%d lines of logs, dumps or metrics were dropped: the disk does not keep up.", self.dropped)
            return False
        return True

    def flush(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Wait until all that was put before is done; False where that takes longer."""
        done = threading.Event()
        return self._thread is None or (self.put(done.set) and done.wait(seconds))

    def close(self) -> None:
        """Do what waits, as far as CLOSE_SECONDS reach, and end the thread. Idempotent."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._queue.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception as error:
                self.failed += 1
                self._tell("A log, dump or metrics file could not be written: %s", error)

    def _tell(self, text: str, what: object) -> None:
        if time.monotonic() - self._told >= TELL_EVERY or not self._told:
            self._told = time.monotonic()
            log.warning(text, what)


class HourlyFile:
    """Lines appended to FOLDER/STEM-YYYYMMDD-HH-PID.SUFFIX, a new file each hour; readable by their owner alone.

    The process id is in the name because API workers must not write into each other's lines. Used by one thread.
    """

    def __init__(self, folder: str | Path, stem: str, suffix: str) -> None:
        self._folder = Path(folder)
        self._stem, self._suffix = stem, suffix
        self._hour = ""
        self._file: IO[bytes] | None = None

    def write(self, line: bytes) -> None:
        """Append a line, which ends with a newline. Raises OSError."""
        hour = time.strftime("%Y%m%d-%H")
        if self._file is None or hour != self._hour:
            self.close()
            self._hour = hour
            self._file = open_private(self._folder / f"{self._stem}-{hour}-{os.getpid()}.{self._suffix}")
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def open_private(path: Path) -> IO[bytes]:
    """A file to append to, with its folder, that no other user may read. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE), "ab")
