"""Links between the API side and the engine: over ZeroMQ for processes, inline for scripts.

One socket pair per API process, msgpack frames, one message per client and step. The engine owns a
ROUTER and knows each API process by its identity, so any number of them can share one engine.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from sglcore.engine.messages import Abort, Call, FromEngine, Outputs, Reply, Submit, ToEngine
from sglcore.errors import EngineDead, RequestError
from sglcore.request import GenerateRequest, RequestOutput

log = logging.getLogger("sglcore.engine")

# A call the engine does not answer for this long means that it hangs.
CALL_TIMEOUT = 60.0


class ZmqPort:
    """The engine's end. Blocks without using CPU while idle."""

    def __init__(self, address: str, *, wake: str) -> None:
        """Binds `address`; anything that arrives at `wake` (an inproc address) closes the port."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(0)
        self._socket.bind(address)
        self._wake = context.socket(zmq.PULL)
        self._wake.bind(wake)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake, zmq.POLLIN)
        self._decoder = msgspec.msgpack.Decoder(ToEngine)
        self._encoder = msgspec.msgpack.Encoder()
        self.closed = False

    def receive(self, *, block: bool) -> list[tuple[bytes, ToEngine]]:
        """All messages that have arrived; waits for the first if `block`."""
        events = dict(self._poller.poll(None if block else 0))
        if self._wake in events:
            self.closed = True
            return []
        received: list[tuple[bytes, ToEngine]] = []
        while self._socket in events:
            try:
                client, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                received.append((client, self._decoder.decode(b"".join(frames))))
            except msgspec.DecodeError as error:
                log.warning("A message that cannot be read was dropped: %s", error)
        return received

    def send(self, client: bytes, message: Any) -> None:
        """Queue one message; a client that has gone is skipped by ZeroMQ."""
        self._socket.send_multipart((client, self._encoder.encode(message)))

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._wake.close()


class InlinePort:
    """The engine's end in the caller's own thread: two queues and no waiting."""

    def __init__(self) -> None:
        self.inbox: deque[ToEngine] = deque()
        self.outbox: deque[FromEngine] = deque()
        self.closed = False

    def receive(self, *, block: bool) -> list[tuple[bytes, ToEngine]]:
        """What was put into `inbox` since."""
        received = [(b"", message) for message in self.inbox]
        self.inbox.clear()
        return received

    def send(self, client: bytes, message: Any) -> None:
        """Into `outbox`."""
        self.outbox.append(message)


class ZmqClient:
    """The API side's end; implements `contracts.EngineClient`. Belongs to one event loop."""

    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(0)
        self._socket.connect(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._streams: dict[str, tuple[int, asyncio.Queue[list[RequestOutput]]]] = {}  # rid -> epoch, outputs
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._numbers = itertools.count(1)
        self._dead: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the engine lives, as far as this side has heard."""
        return self._dead is None

    async def generate(self, request: GenerateRequest) -> AsyncIterator[list[RequestOutput]]:
        """See `contracts.EngineClient.generate`."""
        if request.rid in self._streams:
            raise RequestError(f"A request with id {request.rid!r} is already running.", param="rid")
        queue: asyncio.Queue[list[RequestOutput]] = asyncio.Queue()
        request = msgspec.structs.replace(request, epoch=next(self._numbers))
        self._streams[request.rid] = (request.epoch, queue)
        left = request.n
        try:
            await self._send(Submit(request))
            while left:
                outputs = await queue.get()
                self._raise_failure(outputs)
                left -= sum(out.finish is not None for out in outputs)
                yield outputs
        finally:
            del self._streams[request.rid]
            if left and self.healthy:
                self._send_now(Abort(request.rid, exact=True))

    async def abort(self, rid: str) -> int:
        """See `contracts.EngineClient.abort`."""
        return await self._ask(lambda number: Abort(rid, number))

    async def call(self, name: str, **arguments: Any) -> Any:
        """See `contracts.EngineClient.call`."""
        return await self._ask(lambda number: Call(number, name, arguments))

    def fail(self, reason: str) -> None:
        """The engine is gone: every open request and call ends with EngineDead, and so do later ones."""
        self._dead = reason
        for _, queue in self._streams.values():
            queue.put_nowait([])
        for future in self._replies.values():
            if not future.done():
                future.set_exception(EngineDead(reason))

    def fail_from_thread(self, reason: str) -> None:
        """`fail`, called by the thread that watches the engine."""
        self._dead = reason
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.fail, reason)

    async def close(self) -> None:
        """Stop reading and close the socket."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._socket.close()
        self._context.term()

    def _raise_failure(self, outputs: list[RequestOutput]) -> None:
        if self._dead is not None and not outputs:
            raise EngineDead(self._dead)
        for out in outputs:
            if out.finish is not None and out.finish.type == "error":
                f = out.finish
                raise RequestError(f.message, param=f.param, code=f.code, status=f.status or 500)

    async def _ask(self, message: Any) -> Any:
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

    async def _read(self) -> None:
        try:
            while True:
                self._take(self._decoder.decode(await self._socket.recv()))
        except Exception as error:  # nobody would read on: better an end than streams that hang
            self.fail(f"The engine's messages cannot be read: {type(error).__name__}: {error}")

    def _take(self, message: FromEngine) -> None:
        if isinstance(message, Outputs):
            self._dispatch(message.outputs)
            return
        future = self._replies.get(message.call)
        if future is not None and not future.done():
            future.set_result(message)

    def _dispatch(self, outputs: list[RequestOutput]) -> None:
        by_rid: dict[str, list[RequestOutput]] = {}
        for out in outputs:
            by_rid.setdefault(out.rid, []).append(out)
        for rid, batch in by_rid.items():
            epoch, queue = self._streams.get(rid, (-1, None))
            fresh = [out for out in batch if out.epoch == epoch]
            if queue is not None and fresh:
                queue.put_nowait(fresh)
