"""Child processes: one start line on stdin, JSON lines back on stdout; stdin's end means that the parent is gone.

The parent notices a child's death by the end of its stdout. Nothing is pickled and nothing is forked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from sglcore.engine.phases import Progress
from sglcore.errors import ConfigError, EngineDead, PluginError, SglcoreError
from sglcore.isolation import failure_text
from sglcore.plugins import PluginPlan, Plugins, from_plan

STOP_TIMEOUT = 10.0


class Joining(msgspec.Struct, frozen=True, tag="joining"):
    """A rank has loaded its plugins and waits for the others at the rendezvous."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child does its work from now on."""

    info: dict[str, Any]


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Once a second from an engine: turns of its loop so far, and whether it has work."""

    turns: int
    busy: bool


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child could not start, or died: what to tell the user."""

    kind: str
    message: str


FromChild = Progress | Joining | Ready | Beat | Failed
Say = Callable[[FromChild], None]
S = TypeVar("S", bound=msgspec.Struct)
_DECODER = msgspec.json.Decoder(FromChild)
_ERRORS: dict[str, type[SglcoreError]] = {"ConfigError": ConfigError, "PluginError": PluginError}


class Child:
    """The parent's handle on `python -m module`, given `start` as its first line. It inherits the descriptors `fds`."""

    def __init__(self, module: str, start: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=fds,
            start_new_session=True,  # ctrl-C is the parent's to handle
        )
        assert self._process.stdin is not None
        self.ready = False
        with suppress(BrokenPipeError):  # where it is dead already, reading from it says so
            self._process.stdin.write(msgspec.json.encode(start) + b"\n")
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def messages(self) -> Iterator[FromChild]:
        """What it says, until it ends; blocks."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield _DECODER.decode(line)

    def wait_ready(self, tell: Callable[[Progress], None], until: type[Joining] | type[Ready] = Ready) -> Any:
        """Pass on progress until the child says `until`; returns that message. Raises what kept it from starting."""
        for message in self.messages():
            if isinstance(message, Progress):
                tell(message)
            elif isinstance(message, Failed):
                raise _ERRORS.get(message.kind, EngineDead)(message.message)
            elif isinstance(message, until):
                self.ready = isinstance(message, Ready)
                return message
        raise EngineDead(f"Process {self.pid} ended with {self.ending()} while starting.")

    def watch(self, on_death: Callable[[str], None], on_beat: Callable[[Beat], None] | None = None) -> None:
        """Call `on_death(reason)` from a thread when the process ends, and `on_beat` while it lives."""
        threading.Thread(target=self._watch, args=(on_death, on_beat), name=f"watch-{self.pid}", daemon=True).start()

    def kill(self) -> None:
        """End it at once, with SIGKILL."""
        self._process.kill()

    def _watch(self, on_death: Callable[[str], None], on_beat: Callable[[Beat], None] | None) -> None:
        reason = ""
        for message in self.messages():
            if isinstance(message, Failed):
                reason = message.message
            elif isinstance(message, Beat) and on_beat is not None:
                on_beat(message)
        on_death(reason or f"Process {self.pid} ended with {self.ending()}.")

    def ending(self) -> str:
        """How it ended, in words; waits for it."""
        code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """Close its stdin, wait, and kill it if it does not go, or at once while it is starting. Idempotent."""
        if not self.ready:  # loading cannot be interrupted, and there is nothing to finish
            self._process.kill()
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def run_child(start: type[S], body: Callable[[S, Say], None]) -> None:
    """The child's whole life: read `start`, run `body`, report what it raises. Exits 2 on a user's error, else 1."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # anything that prints must not disturb the channel

    def say(message: FromChild) -> None:
        channel.write(msgspec.json.encode(message) + b"\n")  # one write, so that threads do not mix their lines

    started = msgspec.json.decode(_first_line(), type=start)
    try:
        body(started, say)
    except SglcoreError as error:
        say(Failed(type(error).__name__, str(error)))
        sys.exit(2)
    except Exception as error:
        import traceback

        traceback.print_exc()
        plan: PluginPlan = getattr(started, "plan", PluginPlan(()))
        say(Failed("EngineDead", failure_text(error, plan.listed())))
        sys.exit(1)


def planned(plan: PluginPlan, digest: str) -> Plugins:
    """The parent's plugins, verified to be exactly those. Raises PluginError where this process sees others."""
    plugins = from_plan(plan)
    if plugins.plan().digest != digest:
        raise PluginError("This process resolved other plugins than its parent.", remedy="Restart the server.")
    return plugins


def wait_for_parent(then: Callable[[], None]) -> None:
    """Call `then` from a thread when the parent is gone; leave the process soon after, whatever it does."""

    def watch() -> None:
        while os.read(0, 4096):  # not through sys.stdin: its lock would be held when a failed start exits
            pass
        then()
        threading.Event().wait(STOP_TIMEOUT)
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            sys.exit(0)  # the parent went away before it said anything
        line += part
    return line
