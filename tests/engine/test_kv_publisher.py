"""A router outside: a real subscriber, and one that comes late and asks for what it missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from sglcore.engine.kv_publisher import END, KVEventsConfig, KVPublisher, read_events_config
from sglcore.errors import ConfigError
from sglcore.memory.events import AllBlocksCleared, BlockStored, EventBatch, KVEventLog
from sglcore.memory.ledger import CacheOptions, GroupPages, KVLedger
from sglcore.memory.rows import RowTable

WAIT_MS = 10_000


class Served:
    """A ledger whose events are published under a folder."""

    def __init__(self, folder: Path, **config: object) -> None:
        self.events = f"ipc://{folder}/events"
        self.replays = f"ipc://{folder}/replays"
        log = KVEventLog(2)
        options = CacheOptions(events=log)
        self.ledger = KVLedger([GroupPages(64)], 2, RowTable(2, 32, 17, 1), cache=options)
        fields = {"endpoint": self.events, "replay_endpoint": self.replays, "topic": "kv", **config}
        self.publisher = KVPublisher(log, msgspec.convert(fields, KVEventsConfig))

    def serve(self, tokens: list[int]) -> None:
        row = self.ledger.rows.seat(np.array(tokens, dtype=np.int32))
        self.ledger.admit(row, "", len(tokens) - 1)
        assert self.ledger.reserve(np.array([row], np.int32), np.array([len(tokens)])) is not None
        self.ledger.release(row, len(tokens))
        self.ledger.rows.leave(row)
        self.publisher.publish()


class Router:
    """What an outside process does; it has a context of its own."""

    def __init__(self, served: Served) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        self.socket.subscribe(b"kv")
        self.socket.connect(served.events)
        self.served = served

    def wait_until_subscribed(self) -> None:
        """PUB drops what comes before the subscription: ask with events until one arrives."""
        for i in range(1000):
            self.served.serve([1000 + i] * 2)
            if self.socket.poll(10):
                return
        raise AssertionError("no event arrived")

    def next(self) -> tuple[int, EventBatch]:
        topic, number, payload = self.socket.recv_multipart()
        assert topic == b"kv"
        return int.from_bytes(number, "big"), msgspec.msgpack.decode(payload, type=EventBatch)

    def replay(self, start: int) -> list[tuple[int, EventBatch]]:
        asker = self.context.socket(zmq.DEALER)
        asker.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        asker.connect(self.served.replays)
        asker.send_multipart((b"", start.to_bytes(8, "big")))
        found = []
        while (frames := asker.recv_multipart())[1] != END:
            found.append((int.from_bytes(frames[1], "big"), msgspec.msgpack.decode(frames[2], type=EventBatch)))
        asker.close(0)
        return found

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.publisher.close()


def test_a_subscriber_hears_what_is_stored_and_cleared_in_order(served: Served):
    router = Router(served)
    router.wait_until_subscribed()
    served.serve([1, 2, 3, 4, 5])
    served.ledger.flush()
    served.publisher.publish()
    numbers, events = [], []
    while not events or not isinstance(events[-1], AllBlocksCleared):
        number, batch = router.next()
        numbers.append(number)
        events += batch.events
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert isinstance(events[-2], BlockStored)
    assert events[-2].token_ids == [1, 2, 3, 4] and events[-2].block_size == 2
    router.close()


def test_who_comes_late_asks_for_what_it_missed(served: Served):
    for i in range(5):
        served.serve([i, i])
    router = Router(served)
    missed = router.replay(2)
    assert [number for number, _ in missed] == [2, 3, 4]
    assert [b.events[0].token_ids for _, b in missed] == [[2, 2], [3, 3], [4, 4]]
    assert router.replay(5) == []
    router.close()


def test_the_replay_buffer_is_bounded(tmp_path: Path):
    served = Served(tmp_path, buffer_steps=3)
    for i in range(10):
        served.serve([i, i])
    router = Router(served)
    assert [number for number, _ in router.replay(0)] == [7, 8, 9]
    router.close()
    served.publisher.close()


def test_a_replay_request_that_is_none_is_dropped(served: Served):
    served.serve([1, 2])
    router = Router(served)
    bad = router.context.socket(zmq.DEALER)
    bad.connect(served.replays)
    bad.send(b"nonsense and more")
    assert len(router.replay(0)) == 1  # still answered
    router.close()


def test_close_sends_what_waits_and_may_be_called_twice(tmp_path: Path):
    served = Served(tmp_path)
    served.publisher.close()
    served.publisher.close()
    assert served.publisher.dropped == 0


def test_the_flag_is_read_and_refused_with_its_name():
    read = read_events_config('{"endpoint": "tcp://*:5557", "topic": "t"}')
    assert read is not None and (read.endpoint, read.buffer_steps) == ("tcp://*:5557", 10_000)
    assert read_events_config(None) is None
    assert read_events_config('{"publisher": "null"}') is None
    assert read_events_config('{"enable_kv_cache_events": false}') is None
    for wrong in ("{", '{"endpoint": "http://x"}', '{"endpont": "tcp://*:1"}', '{"publisher": "kafka"}'):
        with pytest.raises(ConfigError, match="--kv-events-config"):
            read_events_config(wrong)


def test_an_address_that_cannot_be_bound_is_a_config_error(tmp_path: Path, served: Served):
    with pytest.raises(ConfigError, match="cannot be bound"):
        KVPublisher(KVEventLog(1), KVEventsConfig(endpoint=f"ipc://{tmp_path}/no/such/folder/x"))
