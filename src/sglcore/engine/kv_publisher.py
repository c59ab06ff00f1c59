"""KVPublisher: the cache's events over ZeroMQ, numbered, with a buffer to ask for what was missed.

Frames on the PUB socket: topic, number (8 bytes, big-endian), EventBatch in msgpack. On the replay socket (ROUTER) a
client sends a number in 8 bytes and gets every batch kept from there on, as (empty, number, payload), and a last one
with number -1 and no payload. A thread does the sending, so a slow network costs the engine nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Annotated, Literal

import msgspec
import zmq
from msgspec import Meta

from sglcore.errors import ConfigError
from sglcore.memory.events import KVEventLog

log = logging.getLogger("sglcore.engine")

Endpoint = Annotated[str, Meta(pattern=r"^(tcp|ipc|inproc)://.+", max_length=256)]
Steps = Annotated[int, Meta(ge=0, le=10_000_000)]
END = (-1).to_bytes(8, "big", signed=True)
STOP = b"stop"
LINGER_MS = 200


class KVEventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`--kv-events-config`, with the field names that vLLM and SGLang use.

    buffer_steps: batches kept for replay. hwm: messages queued for a slow subscriber before it loses some.
    max_queue_size: batches waiting for the sending thread before some are dropped (their numbers are missing then).
    """

    enable_kv_cache_events: bool = True
    publisher: Literal["zmq", "null"] = "zmq"
    endpoint: Endpoint = "tcp://127.0.0.1:5557"
    replay_endpoint: Endpoint | None = None
    buffer_steps: Steps = 10_000
    hwm: Steps = 100_000
    max_queue_size: Steps = 100_000
    topic: Annotated[str, Meta(max_length=256)] = ""


def read_events_config(text: str | None) -> KVEventsConfig | None:
    """The flag's value; None where no events are wanted. Raises ConfigError."""
    if text is None:
        return None
    try:
        config = msgspec.json.decode(text, type=KVEventsConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"--kv-events-config {text[:80]!r}: {error}.",
            remedy='Give a JSON object such as {"publisher": "zmq", "endpoint": "tcp://127.0.0.1:5557"}.',
        ) from None
    return config if config.enable_kv_cache_events and config.publisher != "null" else None


class KVPublisher:
    """Takes what an event log has gathered and sends it. Used by the engine's loop only."""

    def __init__(self, log: KVEventLog, config: KVEventsConfig) -> None:
        """Binds the endpoints; raises ConfigError where that does not work."""
        self.dropped = 0
        self._log = log
        self._next = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        inlet = f"inproc://kv-events-{id(self)}"
        try:
            sender = _Sender(self._context, config, inlet)
        except ConfigError:
            self._context.destroy(linger=0)
            raise
        self._push = self._context.socket(zmq.PUSH)
        self._push.set_hwm(config.max_queue_size)
        self._push.connect(inlet)
        self._thread = threading.Thread(target=sender.run, name="kv-events", daemon=True)
        self._thread.start()

    def publish(self) -> None:
        """Send what has happened since the last call, as one batch."""
        batch = self._log.take()
        if batch is None:
            return
        number, self._next = self._next, self._next + 1
        try:
            self._push.send_multipart((number.to_bytes(8, "big"), self._encoder.encode(batch)), zmq.NOBLOCK)
        except zmq.Again:
            self.dropped += 1

    def close(self) -> None:
        """Send what waits and end the thread. Idempotent."""
        if self._push.closed:
            return
        self.publish()
        try:
            self._push.setsockopt(zmq.SNDTIMEO, 1000)
            self._push.send_multipart((STOP, b""))
            self._thread.join(2.0)
        except zmq.Again:
            log.warning("KV events: the sending thread does not take its last message.")
        self._push.close(linger=0)
        self._context.destroy(linger=LINGER_MS)


class _Sender:
    """The sending thread's side: three sockets and the buffer."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], config: KVEventsConfig, inlet: str) -> None:
        self._topic = config.topic.encode()
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=config.buffer_steps)
        self._pull = context.socket(zmq.PULL)
        self._pull.set_hwm(config.max_queue_size)
        self._pull.bind(inlet)
        self._publish = context.socket(zmq.PUB)
        self._publish.set_hwm(config.hwm)
        _bind(self._publish, config.endpoint, "endpoint")
        self._replay = context.socket(zmq.ROUTER)
        self._poller = zmq.Poller()
        self._poller.register(self._pull, zmq.POLLIN)
        if config.replay_endpoint is not None:
            _bind(self._replay, config.replay_endpoint, "replay_endpoint")
            self._poller.register(self._replay, zmq.POLLIN)

    def run(self) -> None:
        """Until the stop message."""
        while True:
            ready = dict(self._poller.poll())
            if self._pull in ready:
                number, payload = self._pull.recv_multipart()
                if number == STOP:
                    break
                self._publish.send_multipart((self._topic, number, payload))
                self._kept.append((number, payload))
            if self._replay in ready:
                self._answer(self._replay.recv_multipart())
        for socket in (self._pull, self._publish, self._replay):
            socket.close(linger=LINGER_MS)

    def _answer(self, frames: list[bytes]) -> None:
        client, start = frames[0], frames[-1]
        if len(start) != 8:
            log.warning("KV events: a replay request without a number of 8 bytes was dropped.")
            return
        for number, payload in self._kept:
            if number >= start:  # big-endian, so bytes compare as the numbers do
                self._replay.send_multipart((client, b"", number, payload))
        self._replay.send_multipart((client, b"", END, b""))


def _bind(socket: zmq.Socket[bytes], endpoint: str, name: str) -> None:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(
            f"--kv-events-config: {name} {endpoint} cannot be bound: {error}.",
            remedy="Choose another address, or stop who listens there.",
        ) from None
