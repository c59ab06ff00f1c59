"""Which unused prefix goes first: the orders, and the queue of leaves that may go.

An order gives a node a rank; the lowest rank goes first. Ranks only rise while a node lives, so a heap whose
entries are old is still right: an entry that comes up is ranked anew and, if it has risen, put back. That makes a
use of a node free, and an eviction cost the leaves it looks at, not a walk over the tree.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Any

from sglcore.contracts.policies import CachedRun, EvictionOrder

if TYPE_CHECKING:
    from sglcore.memory.radix import Node


class LeastRecentlyUsed:
    """Longest unused first."""

    def rank(self, run: CachedRun) -> int:
        return run.last_use


class LeastFrequentlyUsed:
    """Fewest hits first, longest unused among those."""

    def rank(self, run: CachedRun) -> tuple[int, int]:
        return run.hits, run.last_use


class FirstInFirstOut:
    """Oldest first, used or not."""

    def rank(self, run: CachedRun) -> int:
        return run.born


class LowestPriorityFirst:
    """Lowest request priority first, longest unused among those."""

    def rank(self, run: CachedRun) -> tuple[float, int]:
        return run.priority, run.last_use


ORDERS: dict[str, type[EvictionOrder]] = {
    "lru": LeastRecentlyUsed,
    "lfu": LeastFrequentlyUsed,
    "fifo": FirstInFirstOut,
    "priority": LowestPriorityFirst,
}


class EvictionQueue:
    """Unlocked leaves by rank. A node has at most one entry: `bit` of its `queued` says whether it has."""

    def __init__(self, order: EvictionOrder, bit: int) -> None:
        self._rank = order.rank
        self._bit = bit
        self._heap: list[tuple[Any, int, Node]] = []
        self._tie = itertools.count()
        self._gone = 0  # entries of nodes that left the tree by another way

    def __len__(self) -> int:
        return len(self._heap)

    def offer(self, node: Node) -> None:
        """`node` is an unlocked leaf now."""
        if not node.queued & self._bit:
            node.queued |= self._bit
            heapq.heappush(self._heap, (self._rank(node), next(self._tie), node))

    def pop(self) -> Node | None:
        """The unlocked leaf with the lowest rank, taken out; None if there is none."""
        heap = self._heap
        while heap:
            before, _, node = heap[0]
            if node.children or node.lock or node.parent is None:  # comes back with `offer`, if ever
                heapq.heappop(heap)
                node.queued &= ~self._bit
                continue
            now = self._rank(node)
            if before < now:
                heapq.heapreplace(heap, (now, next(self._tie), node))
                continue
            heapq.heappop(heap)
            node.queued &= ~self._bit
            return node
        self._gone = 0
        return None

    def forget(self, node: Node) -> None:
        """`node` left the tree; its entry, if it has one, must not keep it in memory for ever."""
        if not node.queued & self._bit:
            return
        self._gone += 1
        if self._gone > 64 + len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].parent is not None]
            heapq.heapify(self._heap)
            self._gone = 0
