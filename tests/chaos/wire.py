"""The link without sockets: real client, real loop, real messages; time and order of delivery are the test's."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec

from sglcore.engine.client import ZmqClient
from sglcore.engine.messages import ToEngine

CLIENT = b"api"
ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(ToEngine)


class Socket:
    """The client's end: what it sends is with the engine at its next turn; what it receives comes when `deliver`ed."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._arrived: deque[bytes] = deque()
        self._waiting: asyncio.Future[bytes] | None = None
        self._sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent.set_result(None)
        self.closed = False

    def send(self, data: bytes) -> asyncio.Future[None]:
        assert not self.closed, "something was sent to an engine that is gone"
        self._wire.to_engine.append(data)
        return self._sent

    def recv(self) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self._arrived:
            future.set_result(self._arrived.popleft())
        else:
            self._waiting = future
        return future

    def arrive(self, data: bytes) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(data)
        else:
            self._arrived.append(data)

    def close(self) -> None:
        self.closed = True


class Wire:
    """Both directions. `lag`: turns that an engine's message takes. Implements `EnginePort` for the engine of now."""

    def __init__(self) -> None:
        self.to_engine: deque[bytes] = deque()
        self.to_client: deque[tuple[int, bytes]] = deque()  # (turn in which it arrives, message), in order
        self.socket: Socket | None = None
        self.turn = self.lag = 0
        self.closed = False

    @property
    def empty(self) -> bool:
        return not self.to_engine and not self.to_client

    # -- the engine's side --

    def receive(self, *, block: bool, seconds: float | None = None) -> list[tuple[bytes, ToEngine]]:
        messages = [DECODER.decode(data) for data in self.to_engine]
        self.to_engine.clear()
        return [(CLIENT, message) for message in messages]

    def send(self, client: bytes, message: Any) -> None:
        assert client == CLIENT
        self.to_client.append((self.turn + self.lag, ENCODER.encode(message)))

    # -- the client's side --

    def connect(self, address: str) -> Any:
        self.to_engine.clear()  # what went to an engine that is gone
        self.socket = Socket(self)
        return self.socket

    def deliver(self) -> None:
        """What is due arrives at the client."""
        self.turn += 1
        while self.to_client and self.to_client[0][0] < self.turn:
            assert self.socket is not None
            self.socket.arrive(self.to_client.popleft()[1])

    def cut(self, late: bool) -> None:
        """The engine is gone, and what was on its way to it. What it had sent is lost, or comes `late`."""
        self.to_engine.clear()
        if not late:
            self.to_client.clear()
        else:
            self.to_client = deque((max(due, self.turn + 3), data) for due, data in self.to_client)


class Client(ZmqClient):
    """The real one, on a wire of the test's."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        super().__init__("")

    def _connected(self, address: str) -> Any:
        return self._wire.connect(address)
