"""The delta channel: each step's plan, once encoded, to every rank that computes it.

A `Batch` carries only what changed since the last step; each rank keeps its own tables and applies it, so what
crosses per step is a few hundred bytes for a decoding batch, whatever the lengths of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from sglcore.batch import Batch
from sglcore.contracts.execution import PendingStep, StepExecutor
from sglcore.errors import EngineDead

CONNECT_TIMEOUT = 30_000  # milliseconds


def encode_batch(batch: Batch) -> bytes:
    """msgpack; arrays as (dtype, bytes)."""
    return _ENCODER.encode(batch)


def decode_batch(data: bytes) -> Batch:
    """The batch that was encoded; its arrays are read-only."""
    return _DECODER.decode(data)


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    raise TypeError(f"a Batch holds no {type(value).__name__}")


def _unpack(kind: type, value: Any) -> Any:
    dtype, data = value
    return np.frombuffer(data, dtype)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_pack)
_DECODER = msgspec.msgpack.Decoder(Batch, dec_hook=_unpack)


class FeedSender:
    """Rank 0's end: one socket per other rank, in order, without waiting."""

    def __init__(self, addresses: Sequence[str]) -> None:
        import zmq

        self._sockets: list[zmq.Socket[bytes]] = []
        for address in addresses:
            socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(address)
            self._sockets.append(socket)

    def wait_connected(self) -> None:
        """Until every rank's end is connected: only then can a send tell that nobody listens. Raises EngineDead."""
        for rank, socket in enumerate(self._sockets, start=1):
            if not socket.poll(CONNECT_TIMEOUT):
                raise EngineDead(f"Tensor-parallel rank {rank} did not connect.")
            socket.recv()

    def send(self, data: bytes) -> None:
        """Hand the bytes to the sockets' own thread. Raises EngineDead where nobody listens any more."""
        import zmq

        for rank, socket in enumerate(self._sockets, start=1):
            try:
                socket.send(data, zmq.NOBLOCK)  # a send that waits would wait for ever for a rank that is gone
            except zmq.Again:
                raise EngineDead(f"Tensor-parallel rank {rank} takes no more plans.") from None

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()
        self._sockets = []


class FeedReceiver:
    """Another rank's end."""

    def __init__(self, address: str) -> None:
        import zmq

        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.connect(address)
        self._socket.send(b"here")

    def receive(self) -> Batch:
        """The next plan; waits for it."""
        return decode_batch(self._socket.recv())


class FedExecutor:
    """Rank 0 of several: every plan goes to the others first, then is computed here. Implements `StepExecutor`."""

    def __init__(self, own: StepExecutor, ranks: Any) -> None:
        self.own = own
        self.ranks = ranks

    def forward(self, batch: Batch) -> None:
        """Queue the forward pass on all ranks. Raises EngineDead when one of them is gone."""
        self.ranks.send(batch)
        self.own.forward(batch)

    def sample(self, batch: Batch, masks: Any = None) -> PendingStep:
        """Rank 0 samples; the others are sent the tokens by the group."""
        return self.own.sample(batch, masks)

    def close(self) -> None:
        """End the ranks, then release this device. Idempotent."""
        self.ranks.stop()
        self.own.close()
