"""ZmqClient: the API side's end of the link. It remembers what it has passed on, so that no death is a client's."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from sglcore.engine.journal import Journal
from sglcore.engine.messages import Abort, Call, FromEngine, Outputs, Reply, Submit
from sglcore.engine.recovery import Opened, Recovery
from sglcore.engine.replay import CLEARED, Record
from sglcore.errors import EngineDead, RequestError
from sglcore.request import FinishReason, GenerateRequest, RequestOutput
from sglcore.text.backlog import Backlog

# A call the engine does not answer for this long means that it hangs.
CALL_TIMEOUT = 60.0


class Stream:
    """One request's way back to whoever waits for it.

    `submitted`: to the engine of now; `suspect`: to the one before.
    """

    __slots__ = ("backlog", "record", "submitted", "suspect")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.submitted = self.suspect = False
        self.backlog = Backlog()


class ZmqClient:
    """Implements `contracts.EngineClient`. Belongs to one event loop.

    Between `suspend` and `resume` (an engine has died, another is starting) requests wait, and calls are refused.
    """

    def __init__(self, address: str, seed: int = 0, identity: str = "") -> None:
        """`identity`: how the engine knows this client, where somebody else must be able to name it."""
        self._identity = identity
        self._context = zmq.asyncio.Context()
        self._socket = self._connected(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._streams: dict[str, Stream] = {}
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._numbers = itertools.count(1)
        self._seeds = random.Random(seed)
        self._journal = Journal()
        self._recovery = Recovery()
        self._suspended = False
        self._dead: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether there is an engine, or will be one again."""
        return self._dead is None

    @property
    def ready(self) -> bool:
        """Whether an engine takes requests now."""
        return self._dead is None and not self._suspended

    @property
    def replayed(self) -> int:
        """Requests told again to a new engine, over all deaths."""
        return self._recovery.replayed

    @property
    def poisoned(self) -> int:
        """Requests given up because they alone killed an engine."""
        return self._recovery.poisoned

    @property
    def open(self) -> int:
        """Requests in flight."""
        return len(self._streams)

    # -- asking --

    async def generate(self, request: GenerateRequest) -> AsyncIterator[list[RequestOutput]]:
        """See `contracts.EngineClient.generate`."""
        if request.rid in self._streams:
            raise RequestError(f"A request with id {request.rid!r} is already running.", param="rid")
        request = msgspec.structs.replace(self._seeded(request), epoch=next(self._numbers))
        stream = self._streams[request.rid] = Stream(Record(request, request.epoch))
        left, taken = request.n, 0
        try:
            await self._begin(request)
            while left:
                outputs = await stream.backlog.take()
                if not outputs:
                    raise EngineDead(self._dead or "")
                for out in outputs:
                    taken += len(out.token_ids)
                    if out.finish is not None:
                        left -= 1
                        _raise_failure(out.finish)
                yield outputs
        finally:
            del self._streams[request.rid]
            record = stream.record
            self.remember(request, record.tokens[0][:taken], record.since, stream.submitted)
            if self._recovery.active:
                self._recovery.gone(self, request.rid)
            if left and self.ready:
                self._send_now(Abort(request.rid, exact=True, kept=taken if request.n == 1 else -1))

    async def abort(self, rid: str, message: str = "") -> int:
        """See `contracts.EngineClient.abort`."""
        return await self._ask(lambda number: Abort(rid, number, message=message))

    def end_branch(self, rid: str, branch: int) -> None:
        """See `contracts.EngineClient.end_branch`."""
        stream = self._streams.get(rid)
        if stream is None:
            return
        stream.record.ended.add(branch)  # a new engine need not go on with it
        if self.ready:
            self._send_now(Abort(rid, exact=True, branch=branch))

    async def call(self, name: str, **arguments: Any) -> Any:
        """See `contracts.EngineClient.call`."""
        result = await self._ask(lambda number: Call(number, name, arguments))
        self._journal.called(name, arguments, result)
        return result

    def remember(self, request: GenerateRequest, tokens: list[int], since: float, submitted: bool) -> None:
        """A request has ended with these tokens, as far as its client took them. `submitted`: to the engine of now."""
        told = self._journal.ended(request, tokens, since)
        if told is not None and not submitted and self.ready:
            self._send_now(told)  # it ended while it waited to be run again

    async def close(self) -> None:
        """Stop reading and close the socket."""
        await self._stop_reading()
        self._socket.close()
        self._context.term()

    # -- the end of an engine, and the next one --

    def attach(self) -> None:
        """Belong to the running loop from here on; called when the server starts."""
        self._loop = asyncio.get_running_loop()

    def from_thread(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Run one of the three below on the client's loop, from the thread that watches the engine."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)
        else:
            call(*arguments)

    def suspend(self) -> None:
        """The engine is gone: hold everything. Calls that wait for an answer get none."""
        self._suspended = self._recovery.held = True
        for stream in self._streams.values():
            stream.suspect, stream.submitted = stream.submitted, False
        for future in self._replies.values():
            if not future.done():
                future.set_exception(_restarting())

    def resume(self, address: str, in_flight: set[bytes]) -> None:
        """A new engine listens at `address`; `in_flight`: what the black box says of the old one's last steps."""
        self.reconnect(address)
        for call in self._journal.tell():
            self._send_now(call)
        self._recovery.died({self: self.opened()}, in_flight)

    def reconnect(self, address: str) -> None:
        """Leave the old engine's address for the new one's."""
        self._socket.close()
        self._socket = self._connected(address)
        if self._reader is not None:
            self._reader.cancel()
            self._reader = asyncio.get_running_loop().create_task(self._read())
        self._suspended = False

    def opened(self) -> list[Opened]:
        """What is open now, in the order of coming."""
        return [Opened(rid, stream.record.since, stream.suspect) for rid, stream in self._streams.items()]

    def again(self, rids: list[str]) -> None:
        """See `recovery.Side`."""
        for rid in rids:
            stream = self._streams.get(rid)
            if stream is not None and not stream.submitted:
                stream.submitted = True
                self._send_now(Submit(stream.record.again(next(self._numbers))))

    def give_up(self, rid: str) -> None:
        """See `recovery.Side`."""
        message = "This request ended the engine each time it was run, the last time alone; it is not run again."
        self._end(rid, FinishReason("error", message=message, status=500, code="engine_death"))

    def refuse(self, rid: str) -> None:
        """See `recovery.Side`."""
        message = f"A request with id {rid!r} is already running."
        self._end(rid, FinishReason("error", message=message, status=400, code="duplicate_rid", param="rid"))

    def drop(self, reason: str) -> None:
        """End every open request with an error that its client may act on; the server is about to stop."""
        for rid in self._streams:
            self._end(rid, FinishReason("error", message=reason, status=503, code="shutting_down"))

    def fail(self, reason: str) -> None:
        """There will be no engine again: every open request and call ends with EngineDead, and so do later ones."""
        self._dead = reason
        for stream in self._streams.values():
            stream.backlog.close()
        for future in self._replies.values():
            if not future.done():
                future.set_exception(EngineDead(reason))

    # -- inside --

    def _connected(self, address: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.set_hwm(0)
        if self._identity:
            socket.setsockopt(zmq.IDENTITY, self._identity.encode())
        socket.connect(address)
        return socket

    def _seeded(self, request: GenerateRequest) -> GenerateRequest:
        """With a seed of its own from here on, so that a second engine draws as the first one did."""
        if request.sampling.seed is not None or request.sampling.greedy:
            return request
        sampling = msgspec.structs.replace(request.sampling, seed=self._seeds.getrandbits(62))
        return msgspec.structs.replace(request, sampling=sampling)

    async def _begin(self, request: GenerateRequest) -> None:
        if self._dead is not None:
            raise EngineDead(self._dead)
        if self._recovery.active:
            self._recovery.wait(self, request.rid)
        elif not self._suspended:  # else `resume` submits it with the others
            self._streams[request.rid].submitted = True
            await self._send(Submit(request))

    def _end(self, rid: str, finish: FinishReason) -> None:
        if rid in self._streams:
            self._streams[rid].backlog.put(RequestOutput(rid, 0, [], finish))

    async def _ask(self, message: Any) -> Any:
        if self._suspended and self._dead is None:
            raise _restarting()
        number = next(self._numbers)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        try:
            await self._send(message(number))
            reply = await asyncio.wait_for(future, CALL_TIMEOUT)
        except TimeoutError:
            raise EngineDead(f"The engine gave no answer for {CALL_TIMEOUT:.0f} s.") from None
        finally:
            del self._replies[number]
        if reply.failure is not None:
            raise reply.failure.error()
        return reply.result

    async def _send(self, message: Any) -> None:
        if self._dead is not None:
            raise EngineDead(self._dead)
        if self._reader is None:
            self._loop = asyncio.get_running_loop()
            self._reader = self._loop.create_task(self._read())
        await self._socket.send(self._encoder.encode(message))

    def _send_now(self, message: Any) -> None:
        """From places that may not await (a generator being closed). The high-water mark is off, so it queues.

        Through the asyncio socket, never past it: a bare send may swallow the signal that a message has arrived, and
        the reader would sleep on it for ever.
        """
        self._socket.send(self._encoder.encode(message))

    async def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        socket = self._socket
        try:
            while True:
                self._take(self._decoder.decode(await socket.recv()))
        except Exception as error:  # nobody would read on: better an end than streams that hang
            if socket is self._socket:
                self.fail(f"The engine's messages cannot be read: {type(error).__name__}: {error}")

    def _take(self, message: FromEngine) -> None:
        if isinstance(message, Outputs):
            self._dispatch(message.outputs)
            return
        future = self._replies.get(message.call)
        if future is not None and not future.done():
            future.set_result(message)

    def _dispatch(self, outputs: list[RequestOutput]) -> None:
        examining = self._recovery.active
        for out in outputs:
            stream = self._streams.get(out.rid)
            if stream is not None and out.epoch == stream.record.epoch:
                stream.record.take(out)
                stream.backlog.put(out)
                if examining:
                    self._examine(out.rid, stream.record)

    def _examine(self, rid: str, record: Record) -> None:
        settled = record.deliveries >= CLEARED or len(record.ended) == record.request.n
        if settled and self._recovery.active:
            self._recovery.cleared(self, rid)


def _raise_failure(finish: FinishReason) -> None:
    if finish.type == "error":
        f = finish
        raise RequestError(f.message, param=f.param, code=f.code, status=f.status or 500, retry_after=f.retry_after)


def _restarting() -> RequestError:
    return RequestError(
        "The engine is being restarted.", status=503, code="engine_restarting", remedy="Ask again in a few seconds."
    )
