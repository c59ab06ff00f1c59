"""The parent's handle on one API worker: its process, what it was told, and what it last counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from sglcore.engine.child import Child
from sglcore.engine.recovery import Opened
from sglcore.plugins import PluginPlan
from sglcore.server.conversation import Conversation, Handlers
from sglcore.server.counts import Counts
from sglcore.server_config import ServerConfig

MODULE = "sglcore.server.worker"


class WorkerStart(msgspec.Struct, frozen=True):
    """What a child needs to become one of the API workers.

    name: of this process and no later one, how engine and parent know it. engine, parent: ZeroMQ addresses.
    socket: descriptor of the listening socket, shared by all workers.
    """

    config: ServerConfig
    path: str
    plan: PluginPlan
    digest: str
    index: int
    name: str
    seed: int
    engine: str
    parent: str
    socket: int


class State(msgspec.Struct, frozen=True):
    """What a worker answers with that the parent alone knows; told when it changes and once a second."""

    last_beat: float  # of the engine, monotonic seconds
    engine_restarts: int
    resumed_in: float
    replayed: int
    poisoned: int
    worker_restarts: int


class WorkerProcess:
    """One process. Implements `recovery.Side`.

    attached: it has said that it is there, and lives. counts: as it last told. opened: its open requests, once it
    has reported them to the new engine; None before.
    """

    def __init__(self, start: WorkerStart, send: Callable[[bytes], None], handlers: Handlers) -> None:
        self.index, self.name = start.index, start.name
        self.talk = Conversation(send, handlers)
        self.attached = False
        self.counts = Counts()
        self.opened: list[Opened] | None = None
        self.heard = time.monotonic()
        self._child = Child(MODULE, start, fds=(start.socket,))

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ready(self) -> bool:
        """Whether it has built its application."""
        return self._child.ready

    def wait_ready(self) -> None:
        """Until its application is built; blocks. Raises what kept it from that."""
        self._child.wait_ready(lambda progress: None)

    def watch(self, on_death: Callable[[str], None]) -> None:
        """Call `on_death(reason)` from a thread when the process ends."""
        self._child.watch(on_death)

    def kill(self) -> None:
        """End the process at once."""
        self._child.kill()

    def stop(self) -> None:
        """End the process, if need be by force. Idempotent."""
        self._child.stop()

    def tell(self, name: str, /, **arguments: Any) -> None:
        """As `Conversation.tell`, to one that is there."""
        if self.attached:
            self.talk.tell(name, **arguments)

    def again(self, rids: list[str]) -> None:
        """See `recovery.Side`."""
        self.tell("again", rids=rids)

    def give_up(self, rid: str) -> None:
        """See `recovery.Side`."""
        self.tell("give_up", rid=rid)

    def refuse(self, rid: str) -> None:
        """See `recovery.Side`."""
        self.tell("refuse", rid=rid)
