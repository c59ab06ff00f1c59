from __future__ import annotations

from hashlib import blake2b

import msgspec
import numpy as np

from sglcore.memory.events import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch, KVEventLog
from sglcore.memory.ledger import CacheOptions, GroupPages, KVLedger
from sglcore.memory.rows import RowTable


def make(log: KVEventLog | None) -> KVLedger:
    return KVLedger([GroupPages(32)], 2, RowTable(3, 32, 17, 1), cache=CacheOptions(events=log))


def serve(ledger: KVLedger, tokens: list[int], namespace: str = "", *, leave: bool = True) -> int:
    row = ledger.rows.seat(np.array(tokens, dtype=np.int32))
    ledger.admit(row, namespace, len(tokens) - 1)
    assert ledger.reserve(np.array([row], np.int32), np.array([len(tokens)])) is not None
    ledger.commit(row, len(tokens))
    if leave:
        ledger.release(row, len(tokens))
        ledger.rows.leave(row)
    return row


def taken(log: KVEventLog) -> list:
    batch = log.take()
    return batch.events if batch else []


def chain(namespace: str, tokens: list[int], size: int = 2) -> list[int]:
    """The documented hashes, computed the long way."""
    before = blake2b(namespace.encode(), digest_size=8).digest()
    hashes = []
    for i in range(0, len(tokens), size):
        run = b"".join(t.to_bytes(4, "little") for t in tokens[i : i + size])
        before = blake2b(before + run, digest_size=8).digest()
        hashes.append(int.from_bytes(before, "little"))
    return hashes


def test_blocks_are_chained_to_those_before_them():
    log = KVEventLog(2)
    ledger = make(log)
    serve(ledger, [1, 2, 3, 4, 5])
    whole = chain("", [1, 2, 3, 4])
    assert taken(log) == [BlockStored(whole, None, [1, 2, 3, 4], 2)]
    serve(ledger, [1, 2, 3, 4, 7, 8])
    assert taken(log) == [BlockStored([chain("", [1, 2, 3, 4, 7, 8])[2]], whole[1], [7, 8], 2)]
    serve(ledger, [1, 2, 9, 9])  # splits the first run: hashes stay
    assert taken(log) == [BlockStored([chain("", [1, 2, 9, 9])[1]], whole[0], [9, 9], 2)]
    assert log.take() is None


def test_a_namespace_has_hashes_of_its_own():
    log = KVEventLog(2)
    ledger = make(log)
    serve(ledger, [1, 2], "4:salt0:")
    assert taken(log) == [BlockStored(chain("4:salt0:", [1, 2]), None, [1, 2], 2, namespace="4:salt0:")]


def test_removed_and_cleared():
    log = KVEventLog(2)
    ledger = make(log)
    serve(ledger, [1, 2, 3, 4])
    running = serve(ledger, [5, 6, 7, 8], leave=False)
    taken(log)
    ledger.flush()  # a row reads the second: it stays, so not all is cleared
    assert taken(log) == [BlockRemoved(chain("", [1, 2, 3, 4]))]
    ledger.release(running, 4)
    ledger.rows.leave(running)
    ledger.flush()
    assert taken(log) == [AllBlocksCleared()]


def test_messages_are_arrays_with_the_type_first():
    log = KVEventLog(2)
    ledger = make(log)
    serve(ledger, [1, 2, 3, 4])
    ledger.flush()
    batch = log.take()
    assert batch is not None
    ts, events = msgspec.msgpack.decode(msgspec.msgpack.encode(batch))[:2]
    assert ts == batch.ts
    assert events[0][:5] == ["BlockStored", chain("", [1, 2, 3, 4]), None, [1, 2, 3, 4], 2]
    assert events[1] == ["AllBlocksCleared"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=EventBatch) == batch


def test_without_a_log_nothing_is_hashed():
    ledger = make(None)
    serve(ledger, [1, 2, 3, 4])
    assert [n.hashes for n in ledger.tree.nodes()] == [()]
