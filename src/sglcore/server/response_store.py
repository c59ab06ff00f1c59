"""Responses that are kept for a while: one owner of them, and the ways to it from an API process.

With one API worker the owner lives in its process; with several it is the parent, which workers reach over the link. A
record is JSON bytes, made and read by the workers; the owner looks into none unless its maker has died.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from sglcore.errors import EngineDead
from sglcore.server.conversation import Conversation

log = logging.getLogger("sglcore.server")

MAX_BYTES = 256 << 20  # of all records together
CANCEL_SECONDS = 30.0  # in which a worker has ended what it was asked to end

Stop = Callable[[str], Awaitable[None]]


class ResponseKeeper:
    """The owner. At most `size` records and MAX_BYTES; the oldest go first."""

    def __init__(self, size: int, max_bytes: int = MAX_BYTES) -> None:
        self._size = size
        self._max_bytes = max_bytes
        self._bytes = 0
        self._records: OrderedDict[str, bytes] = OrderedDict()
        self._runners: dict[str, str] = {}  # id -> who still works on it

    def put(self, runner: str, name: str, record: bytes, running: bool) -> None:
        """Keep a record in place of an earlier one. running: `runner` will put it again when it is done."""
        self._drop(name)
        if not self._size or len(record) > self._max_bytes:
            return
        self._records[name] = record
        self._bytes += len(record)
        if running:
            self._runners[name] = runner
        while len(self._records) > self._size or self._bytes > self._max_bytes:
            self._drop(next(iter(self._records)))

    def get(self, name: str) -> bytes | None:
        """The record, None where there is none (any more)."""
        return self._records.get(name)

    def delete(self, name: str) -> bool:
        """Forget it; False where there was none."""
        known = name in self._records
        self._drop(name)
        return known

    def runner(self, name: str) -> str | None:
        """Who still works on it."""
        return self._runners.get(name)

    def runner_gone(self, runner: str) -> None:
        """What a dead process worked on has failed, and its readers are told so."""
        for name in [name for name, who in self._runners.items() if who == runner]:
            self.put(runner, name, failed_record(self._records[name]), running=False)

    def __len__(self) -> int:
        return len(self._records)

    def _drop(self, name: str) -> None:
        record = self._records.pop(name, None)
        self._bytes -= len(record or b"")
        self._runners.pop(name, None)


def failed_record(record: bytes) -> bytes:
    """The same record, its response failed because the process that made it has ended."""
    fields = msgspec.json.decode(record)
    error = {"code": "server_error", "message": "The process that worked on this response has ended."}
    fields["response"] |= {"status": "failed", "error": error}
    return msgspec.json.encode(fields)


class ResponseStore(Protocol):
    """The way to the owner. stop: ends what this process works on under a name, and returns when its end is kept."""

    size: int  # 0: nothing is kept
    stop: Stop

    async def put(self, name: str, record: bytes, *, running: bool = False) -> None:
        """See ResponseKeeper."""
        ...

    async def get(self, name: str) -> bytes | None:
        """See ResponseKeeper."""
        ...

    async def delete(self, name: str) -> bool:
        """End it if somebody still works on it, and forget it."""
        ...

    async def cancel(self, name: str) -> bytes | None:
        """End it if somebody still works on it; the record as it then is."""
        ...


async def _nothing(name: str) -> None:
    """What stops nothing."""


class LocalResponses:
    """The owner in this process. Implements ResponseStore."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stop: Stop = _nothing
        self._keeper = ResponseKeeper(size)

    async def put(self, name: str, record: bytes, *, running: bool = False) -> None:
        """See ResponseStore."""
        self._keeper.put("", name, record, running)

    async def get(self, name: str) -> bytes | None:
        """See ResponseStore."""
        return self._keeper.get(name)

    async def delete(self, name: str) -> bool:
        """See ResponseStore."""
        await self.cancel(name)
        return self._keeper.delete(name)

    async def cancel(self, name: str) -> bytes | None:
        """See ResponseStore."""
        if self._keeper.runner(name) is not None:
            await self.stop(name)
        return self._keeper.get(name)


class DistantResponses:
    """The owner is the parent of this worker. Implements ResponseStore."""

    def __init__(self, size: int, talk: Conversation) -> None:
        self.size = size
        self.stop: Stop = _nothing
        self._talk = talk

    async def put(self, name: str, record: bytes, *, running: bool = False) -> None:
        """See ResponseStore."""
        await self._talk.ask("responses", what="put", name=name, record=record, running=running)

    async def get(self, name: str) -> bytes | None:
        """See ResponseStore."""
        found: bytes | None = await self._talk.ask("responses", what="get", name=name)
        return found

    async def delete(self, name: str) -> bool:
        """See ResponseStore."""
        return bool(await self._talk.ask("responses", what="delete", name=name))

    async def cancel(self, name: str) -> bytes | None:
        """See ResponseStore."""
        found: bytes | None = await self._talk.ask("responses", what="cancel", name=name)
        return found


class SharedResponses:
    """The parent's side. conversation: that with a worker, None where it has gone."""

    def __init__(self, size: int, conversation: Callable[[str], Conversation | None]) -> None:
        self.keeper = ResponseKeeper(size)
        self._conversation = conversation

    async def asked(self, asker: str, /, what: str, name: str, record: bytes = b"", running: bool = False) -> Any:
        """Answer a worker."""
        if what == "put":
            return self.keeper.put(asker, name, record, running)
        if what in ("cancel", "delete"):
            await self._stop(name)
        return self.keeper.delete(name) if what == "delete" else self.keeper.get(name)

    async def _stop(self, name: str) -> None:
        runner = self.keeper.runner(name)
        talk = self._conversation(runner) if runner is not None else None
        if talk is None:
            return
        try:
            await talk.ask("stop_response", within=CANCEL_SECONDS, name=name)
        except EngineDead as error:
            log.warning("A response could not be stopped: %s", error)
