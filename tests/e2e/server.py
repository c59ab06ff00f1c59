"""A real server: `sglcore serve` as a user starts it, in processes of its own."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil

START_TIMEOUT = 120.0


class Server:
    """A running `sglcore serve`; `url` once it is ready, `log` all it has printed.

    python: of another environment than this one. environment: its variables, instead of this process's.
    """

    def __init__(
        self, *arguments: str, python: str = sys.executable, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [python, "-m", "sglcore", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, "HF_HUB_OFFLINE": "1"},
        )
        self._urls: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        url = self._urls.get(timeout=START_TIMEOUT)
        assert url is not None, "".join(self.log)
        self.url = url

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            found = re.search(r"serves .* at (https?://\S+)", line)
            if found:
                self._urls.put(found[1])
        self._urls.put(None)

    def engine(self) -> psutil.Process:
        """The engine process."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(c for c in children if "sglcore.engine.workers" in " ".join(c.cmdline()))

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Ask it to stop; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)


@contextmanager
def running(*arguments: str, **where: Any) -> Iterator[Server]:
    """A server for the length of a block; nothing of it is left afterwards. `where`: as Server takes it."""
    server = Server(*arguments, **where)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def failing(*arguments: str) -> tuple[int, str]:
    """(exit status, all output) of a `sglcore serve` that is expected not to start."""
    done = subprocess.run(
        [sys.executable, "-m", "sglcore", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return done.returncode, done.stdout + done.stderr
