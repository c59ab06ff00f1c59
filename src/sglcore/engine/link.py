"""Links between the API side and the engine: over ZeroMQ for processes, inline for scripts.

One socket pair per API process, msgpack frames, one message per client and step. The engine owns a
ROUTER and knows each API process by its identity, so any number of them can share one engine.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import msgspec
import zmq

from sglcore.engine.messages import FromEngine, ToEngine

log = logging.getLogger("sglcore.engine")


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

    def receive(self, *, block: bool, seconds: float | None = None) -> list[tuple[bytes, ToEngine]]:
        """All messages that have arrived; waits for the first if `block`, no longer than `seconds`."""
        patience = None if seconds is None else int(seconds * 1000) + 1
        events = dict(self._poller.poll(patience if block else 0))
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

    def receive(self, *, block: bool, seconds: float | None = None) -> list[tuple[bytes, ToEngine]]:
        """What was put into `inbox` since; never waits."""
        received = [(b"", message) for message in self.inbox]
        self.inbox.clear()
        return received

    def send(self, client: bytes, message: Any) -> None:
        """Into `outbox`."""
        self.outbox.append(message)
