"""WorkerClient: an API worker's way to the engine, where what outlives the worker is decided by its parent."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from sglcore.engine.client import ZmqClient
from sglcore.engine.recovery import Recovery, Side
from sglcore.request import GenerateRequest
from sglcore.server.conversation import Conversation
from sglcore.server.counts import Counts


class Distant(Recovery):
    """The parent's recovery, as a worker sees it: it is told, and answers through the `Side`. `waiting`: the parent
    examines requests, as last heard."""

    def __init__(self, talk: Conversation) -> None:
        super().__init__()
        self._talk = talk
        self._told: set[str] = set()  # cleared, since the latest death
        self.waiting = False

    @property
    def active(self) -> bool:
        """See `Recovery.active`."""
        return self.waiting

    def begin(self, waiting: bool) -> None:
        """The parent begins to examine, or has ended."""
        self.waiting = waiting
        self._told.clear()

    def wait(self, side: Side, rid: str) -> None:
        """See `Recovery.wait`."""
        self._talk.tell("hear", what="wait", rid=rid)

    def cleared(self, side: Side, rid: str) -> None:
        """See `Recovery.cleared`."""
        if rid not in self._told:
            self._told.add(rid)
            self._talk.tell("hear", what="cleared", rid=rid)

    def gone(self, side: Side, rid: str) -> None:
        """See `Recovery.gone`."""
        self._told.discard(rid)
        self._talk.tell("hear", what="gone", rid=rid)


class WorkerClient(ZmqClient):
    """Requests go to the engine straight, control calls through the parent, which keeps the journal."""

    def __init__(self, address: str, seed: int, name: str, talk: Conversation) -> None:
        super().__init__(address, seed, name)
        self._talk = talk
        self._address = address
        self._recovery = self._distant = Distant(talk)

    async def call(self, name: str, **arguments: Any) -> Any:
        """See `contracts.EngineClient.call`."""
        return await self._talk.ask("call", name=name, arguments=arguments)

    def go(self, address: str, suspended: bool, waiting: bool) -> None:
        """How things stand when this worker begins."""
        if address != self._address and not suspended:
            self._move(address)
        self._suspended = suspended
        self._distant.begin(waiting)

    def report(self, address: str) -> None:
        """A new engine listens at `address`: tell the parent what is open, and wait for its word."""
        self._move(address)
        self._distant.begin(True)
        self._talk.tell("report", opened=self.opened())

    def _move(self, address: str) -> None:
        self._address = address
        self.reconnect(address)

    def clear(self) -> None:
        """Nobody is examined any more."""
        self._distant.begin(False)

    def counted(self, replayed: int, poisoned: int) -> None:
        """Over all workers, as the parent told."""
        self._distant.replayed, self._distant.poisoned = replayed, poisoned

    def remember(self, request: GenerateRequest, tokens: list[int], since: float, submitted: bool) -> None:
        """See `ZmqClient.remember`; the parent does."""
        if request.session is not None:
            said = {"rid": request.rid, "input_ids": request.input_ids, "session": request.session}
            self._talk.tell("said", request=said, tokens=tokens, since=since, submitted=submitted)


class Siblings:
    """The other workers and the parent's state. Implements `counts.Peers` and `vitals.Watched`."""

    def __init__(self, index: int, talk: Conversation) -> None:
        self.index = index
        self.last_beat = time.monotonic()
        self.restarts = self.worker_restarts = 0
        self.resumed_in = 0.0
        self._talk = talk

    async def counts(self) -> list[Counts]:
        """See `counts.Peers`."""
        return msgspec.convert(await self._talk.ask("others"), list[Counts])
