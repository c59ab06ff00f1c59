"""KV events: what entered and left the prefix cache, for routers outside.

Blocks are pages. A block's hash is chained: blake2b, 8 bytes, over the hash of the block before it (of the namespace
for the first) and its token ids, int32 little-endian, read as an unsigned integer. The messages are arrays in msgpack,
shaped as vLLM's and SGLang's subscribers read them.
"""

from __future__ import annotations

import time
from hashlib import blake2b

import msgspec
import numpy as np

from sglcore.memory.node import Node, Root


class Event(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, tag=True):
    """Base of all events; the first element is the class's name."""


class BlockStored(Event, frozen=True, array_like=True, omit_defaults=True, tag=True):
    """Consecutive blocks entered the cache after `parent_block_hash` (None: at the start of a prompt).

    `lora_id` and `medium` are not used yet; `namespace` is the request's cache namespace (salt, extra key).
    """

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    namespace: str | None = None


class BlockRemoved(Event, frozen=True, array_like=True, omit_defaults=True, tag=True):
    """These blocks left the cache."""

    block_hashes: list[int]


class AllBlocksCleared(Event, frozen=True, array_like=True, omit_defaults=True, tag=True):
    """The cache is empty."""


AnyEvent = BlockStored | BlockRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What happened since the batch before; `ts` is Unix time in seconds."""

    ts: float
    events: list[AnyEvent]
    data_parallel_rank: int | None = None


class KVEventLog:
    """Watches a tree and keeps what happened until it is taken."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._events: list[AnyEvent] = []
        self._silent = False

    def stored(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        first = isinstance(parent, Root)
        root = _root(node)
        seed = _namespace_hash(root.namespace) if first else parent.hashes[-1]
        node.hashes = _chain(seed, node.key, self._page_size)
        self._events.append(
            BlockStored(
                block_hashes=list(node.hashes),
                parent_block_hash=None if first else seed,
                token_ids=node.key.tolist(),
                block_size=self._page_size,
                namespace=root.namespace or None,
            )
        )

    def split(self, upper: Node, lower: Node) -> None:
        cut = len(upper.key) // self._page_size
        upper.hashes, lower.hashes = lower.hashes[:cut], lower.hashes[cut:]

    def removed(self, node: Node) -> None:
        if not self._silent:
            self._events.append(BlockRemoved(list(node.hashes)))

    def clearing(self, on: bool) -> None:
        """While on, the tree is emptied; turned off, that is told in one event."""
        self._silent = on
        if not on:
            self._events.append(AllBlocksCleared())

    def take(self) -> EventBatch | None:
        """What happened since the last call; None if nothing did."""
        if not self._events:
            return None
        batch, self._events = EventBatch(time.time(), self._events), []
        return batch


def _namespace_hash(namespace: str) -> int:
    return int.from_bytes(blake2b(namespace.encode(), digest_size=8).digest(), "little")


def _chain(seed: int, tokens: np.ndarray, page_size: int) -> tuple[int, ...]:
    data, width = tokens.astype("<i4").tobytes(), 4 * page_size
    before, hashes = seed.to_bytes(8, "little"), []
    for start in range(0, len(data), width):
        before = blake2b(before + data[start : start + width], digest_size=8).digest()
        hashes.append(int.from_bytes(before, "little"))
    return tuple(hashes)


def _root(node: Node) -> Root:
    found: Node = node
    while found.parent is not None:
        found = found.parent
    assert isinstance(found, Root)
    return found
