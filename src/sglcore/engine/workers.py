"""The engine process: how it is started, what it reports, how its end is noticed.

Child: `python -m sglcore.engine.workers`. It reads one `Start` line on stdin, writes `Progress`, then
`Ready` or `Failed` as JSON lines on stdout, and serves its socket until stdin closes, which is how it
notices that its parent is gone. The parent notices the child's death by the end of its stdout.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sglcore.config import EngineConfig
from sglcore.engine.phases import Phases, Progress
from sglcore.errors import ConfigError, EngineDead, PluginError, SglcoreError
from sglcore.plugins import PluginPlan, from_plan

STOP_TIMEOUT = 10.0


class Start(msgspec.Struct, frozen=True):
    """What a child needs to become the engine its parent wants."""

    config: EngineConfig
    path: str
    plan: PluginPlan
    digest: str
    address: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine answers on its address."""

    info: dict[str, Any]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The engine could not start, or died: what to tell the user."""

    kind: str
    message: str


_FROM_CHILD = msgspec.json.Decoder(Progress | Ready | Failed)
_ERRORS: dict[str, type[SglcoreError]] = {"ConfigError": ConfigError, "PluginError": PluginError}


class EngineProcess:
    """The parent's handle on one engine process."""

    def __init__(self, config: EngineConfig, path: Path, plan: PluginPlan) -> None:
        self._folder = tempfile.mkdtemp(prefix="sglcore-")  # mode 0700: only this user may connect
        self.address = f"ipc://{self._folder}/engine"
        start = Start(config, str(path), plan, plan.digest, self.address)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sglcore.engine.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # ctrl-C is the parent's to handle
        )
        assert self._process.stdin is not None
        self._ready = False
        self._process.stdin.write(msgspec.json.encode(start) + b"\n")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, tell: Callable[[Progress], None]) -> dict[str, Any]:
        """Pass on progress until the engine answers; returns its info. Raises what kept it from starting."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = _FROM_CHILD.decode(line)
            if isinstance(message, Progress):
                tell(message)
            elif isinstance(message, Ready):
                self._ready = True
                return message.info
            else:
                raise _ERRORS.get(message.kind, EngineDead)(message.message)
        raise EngineDead(f"The engine process ended with {self._ending()} while starting.")

    def watch(self, on_death: Callable[[str], None]) -> None:
        """Call `on_death(reason)` from a thread when the process ends."""
        threading.Thread(target=self._watch, args=(on_death,), name="engine-watch", daemon=True).start()

    def _watch(self, on_death: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        reason = ""
        for line in self._process.stdout:
            message = _FROM_CHILD.decode(line)
            if isinstance(message, Failed):
                reason = message.message
        on_death(reason or f"The engine process ended with {self._ending()}.")

    def _ending(self) -> str:
        code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """Close its stdin, wait, and kill it if it does not go, or at once while it is starting. Idempotent."""
        if not self._ready:  # loading cannot be interrupted, and there is nothing to finish
            self._process.kill()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> None:
    """The child's whole life."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # anything that prints must not disturb the channel
    start = msgspec.json.decode(_first_line(), type=Start)

    def say(message: Any) -> None:
        channel.write(msgspec.json.encode(message) + b"\n")

    try:
        _run(start, say)
    except SglcoreError as error:
        say(Failed(type(error).__name__, str(error)))
        sys.exit(2)
    except Exception as error:
        import traceback

        traceback.print_exc()
        say(Failed("EngineDead", f"The engine failed: {type(error).__name__}: {error}"))
        sys.exit(1)


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            sys.exit(0)  # the parent went away before it said anything
        line += part
    return line


def _run(start: Start, say: Callable[[Any], None]) -> None:
    plugins = from_plan(start.plan)
    if plugins.plan().digest != start.digest:
        raise PluginError("The engine process resolved other plugins than its parent.", remedy="Restart the server.")
    # bound before the model loads, so that clients may connect and queue
    from sglcore.engine.build import build_engine, warm_up
    from sglcore.engine.link import ZmqPort
    from sglcore.engine.loop import EngineLoop

    port = ZmqPort(start.address, wake="inproc://parent-gone")
    threading.Thread(target=_wait_for_parent, name="parent-watch", daemon=True).start()
    phases = Phases(say)
    built = build_engine(start.config, Path(start.path), plugins, phases)
    if not start.config.skip_server_warmup:
        with phases.phase("warm up"):
            warm_up(built.engine)
    plugins.hooks.on_engine_start(info=built.info)
    try:
        say(Ready(built.info))
        EngineLoop(built.engine, port, plugins.hooks, built.info).run()
    finally:
        plugins.hooks.on_engine_stop(info=built.info)
        built.engine.close()
        port.close()


def _wait_for_parent() -> None:
    """Blocks until stdin closes, then wakes the loop; if that hangs in a step, leaves anyway."""
    import zmq

    while os.read(0, 4096):  # not through sys.stdin: its lock would be held when a failed start exits
        pass
    push: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    push.connect("inproc://parent-gone")
    push.send(b"")
    threading.Event().wait(STOP_TIMEOUT)
    os._exit(0)


if __name__ == "__main__":
    main()
