"""`sglcore serve` as a process of its own, for a measurement: started, asked about itself, stopped."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STOP_SECONDS = 30.0
BASE: dict[str, Any] = {
    "load_format": "dummy",
    "skip_tokenizer_init": True,
    "dtype": "bfloat16",
    "context_length": 8192,
    "stream_interval": 1,
    "port": 0,
}


def words(flags: Mapping[str, Any]) -> list[str]:
    """Flags as the command line spells them: true is the bare flag, false and null leave it out."""
    found = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            found.append(flag)
        elif value is not False and value is not None:
            found += [flag, value if isinstance(value, str) else json.dumps(value)]
    return found


def has_flag(flag: str) -> bool:
    """Whether this `sglcore serve` knows a flag, by its own help."""
    command = [sys.executable, "-m", "sglcore", "serve", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    return re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", told) is not None


def heed_sigterm() -> None:
    """End by SIGTERM as by an exception: what this process started is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class Server:
    """A server that is ready; `started` is the monotonic moment before the process was made.

    Raises RuntimeError with the end of what it printed if it does not come up within `limit` seconds.
    """

    def __init__(
        self, model: Path, flags: Mapping[str, Any], environment: Mapping[str, str] | None = None, limit: float = 300.0
    ) -> None:
        self.log: list[str] = []
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sglcore", "serve", str(model), *words({**BASE, **flags})],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
        )
        self._urls: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            url = self._urls.get(timeout=limit)
        except queue.Empty:
            url = None
        self.ready = time.monotonic()
        if url is None:
            self.stop()
            raise RuntimeError("the server did not start:\n" + "".join(self.log[-30:]))
        self.url = url
        parts = urlsplit(url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line)
            if found := re.search(r"serves .* at (http://\S+)", line):
                self._urls.put(found[1])
        self._urls.put(None)

    def info(self) -> dict[str, Any]:
        """The engine's part of /server_info."""
        with urllib.request.urlopen(f"{self.url}/server_info", timeout=30) as response:
            states: list[dict[str, Any]] = json.load(response)["internal_states"]
        return states[0]

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time so far of the server and each process below it; nothing without psutil."""
        try:
            import psutil
        except ImportError:
            return {}
        found = {}
        with suppress(psutil.Error):
            main = psutil.Process(self._process.pid)
            for number, process in enumerate([main, *main.children(recursive=True)]):
                command = " ".join(process.cmdline())
                name = "engine" if "engine" in command else "server" if number == 0 else "child"
                times = process.cpu_times()
                found[f"{name} {process.pid}"] = times.user + times.system
        return found

    def stop(self) -> None:
        """Ask it to stop, end it if it does not; its engine goes when it is gone."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
