"""RadixTree: prefixes of past and running branches, each run of tokens with the pages that hold it.

Keys are token runs whose length is a multiple of the page size, under a namespace. A node owns the
pages of its run, one array per KV group; -1 stands where a window group has let a page go. After
RadixAttention (Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs").
"""

from __future__ import annotations

import heapq
import itertools
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sglcore.contracts.policies import EvictionOrder
from sglcore.memory.eviction import EvictionQueue, LeastRecentlyUsed
from sglcore.memory.hits import EvictedPrefixes
from sglcore.memory.node import Node, Root, TreeWatch
from sglcore.memory.quota import TenantQuota

QUEUE_BIT = 1


class Match(NamedTuple):
    """The longest usable prefix: its last node and its length; `present` tokens are there, usable or not."""

    node: Node
    length: int
    present: int


class RadixTree:
    """Numbers only: it never allocates; pages enter with `insert` and come back from `evict`."""

    def __init__(
        self,
        page_size: int,
        windows: tuple[int, ...],
        *,
        order: EvictionOrder | None = None,
        quota: TenantQuota | None = None,
        watch: TreeWatch | None = None,
    ) -> None:
        """`windows[g]` is group g's sliding window in tokens, 0 for a full group."""
        self.page_size = page_size
        self.windows = windows
        self.quota = quota
        self.watch = watch
        self.cached = [0] * len(windows)  # pages owned, by group
        self.evictable = [0] * len(windows)  # of those, in unlocked nodes
        self.evicted_pages = [0] * len(windows)  # ever, by group
        self.evicted = EvictedPrefixes()
        self._queue = EvictionQueue(order or LeastRecentlyUsed(), QUEUE_BIT)
        self._roots: dict[str, Root] = {}
        self._clock = itertools.count(1)

    # -- looking --

    def match(self, namespace: str, tokens: np.ndarray, priority: float = 0.0) -> Match:
        """Longest usable prefix of `tokens`. Splits a node at the end of the match, and counts as a use of it."""
        path = self._walk(namespace, tokens)
        length = self._servable(path)
        node: Node = self._roots.get(namespace) or self._root(namespace)
        done = 0
        for child, part in path:
            part = min(part, length - done)
            if part <= 0:
                break
            node = child if part == len(child.key) else self._split(child, part)
            done += part
        self._touch(node, priority, 1)
        return Match(node, length, sum(part for _, part in path))

    def matched(self, namespace: str, tokens: np.ndarray) -> int:
        """Length of that prefix, changing nothing."""
        return self._servable(self._walk(namespace, tokens))

    def was_evicted(self, node: Node, page: np.ndarray) -> bool:
        """Whether a run that began below `node` with `page`, one page of tokens, was evicted, as far as is known."""
        return extended(node.sum, page) in self.evicted

    def prefix_pages(self, node: Node) -> list[np.ndarray]:
        """Pages from the root down to `node`, per group."""
        path = list(upward(node))[::-1]
        return [np.concatenate([n.pages[g] for n in path]) for g in range(len(self.windows))]

    def _walk(self, namespace: str, tokens: np.ndarray) -> list[tuple[Node, int]]:
        node: Node | None = self._roots.get(namespace)
        path: list[tuple[Node, int]] = []
        done, size = 0, self.page_size
        end = len(tokens) - len(tokens) % size
        while node is not None and done < end:
            child = node.children.get(tokens[done : done + size].tobytes())
            if child is None:
                break
            part = _common(child.key, tokens[done:end]) // size * size
            path.append((child, part))
            if part < len(child.key):
                break
            done += part
            node = child
        return path

    def _servable(self, path: list[tuple[Node, int]]) -> int:
        """Longest prefix that every group can serve: a window group needs only what the next position still sees."""
        length = sum(part for _, part in path)
        if not length or not any(self.windows):
            return length
        usable = np.ones(length // self.page_size + 1, dtype=bool)
        for g, window in enumerate(self.windows):
            if window:
                present = np.concatenate([n.pages[g][: part // self.page_size] for n, part in path]) >= 0
                usable &= _window_prefixes(present, -(-(window - 1) // self.page_size))
        return int(np.flatnonzero(usable)[-1]) * self.page_size

    # -- changing --

    def insert(
        self, node: Node, tokens: np.ndarray, pages: list[np.ndarray], tenant: str = "", priority: float = 0.0
    ) -> tuple[Node, list[np.ndarray]]:
        """Hang `tokens` (whole pages) below `node` with the pages that hold them, charged to `tenant`.

        Returns the deepest node and, per group, the pages the tree did not take because it already
        has that run; those stay the caller's.
        """
        size = self.page_size
        rejected: list[list[np.ndarray]] = [[] for _ in self.windows]
        done = 0
        while done < len(tokens):
            child = node.children.get(tokens[done : done + size].tobytes())
            if child is None:
                node = self._hang(node, tokens[done:], [p[done // size :] for p in pages], tenant)
                break
            part = _common(child.key, tokens[done:]) // size * size
            if part < len(child.key):
                child = self._split(child, part)
            for g, given in enumerate(pages):
                rejected[g].append(self._fill(child, g, given[done // size : (done + part) // size]))
            node, done = child, done + part
        self._touch(node, priority, 0)
        if not node.children and not node.lock and node.parent is not None:
            self._offer(node)
        return node, [np.concatenate(r) if r else none() for r in rejected]

    def lock(self, node: Node, moved_from: Node | None = None) -> None:
        """Keep `node` and all above it until `unlock`. A lock may be moved down from a node above it."""
        for n in upward(node):
            if n is moved_from:
                break
            if n.lock == 0:
                self.evictable = [have - count for have, count in zip(self.evictable, n.counts, strict=True)]
            n.lock += 1

    def unlock(self, node: Node) -> None:
        """Undo one `lock`."""
        for n in upward(node):
            n.lock -= 1
            if n.lock == 0:
                self.evictable = [have + count for have, count in zip(self.evictable, n.counts, strict=True)]
                if n.parent is None:
                    self._forget(n)
                elif not n.children:
                    self._offer(n)

    def evict(self, needed: list[int] | np.ndarray, tenant: str | None = None) -> list[np.ndarray]:
        """Drop unlocked leaves in the order of eviction until each group gave `needed[g]` pages; returns the pages.

        With `tenant`, only leaves charged to it.
        """
        queue = self._queue if tenant is None else self.quota.queue(tenant) if self.quota else None
        freed: list[list[np.ndarray]] = [[] for _ in self.windows]
        missing = [int(n) for n in needed]
        while queue is not None and max(missing) > 0:
            leaf = queue.pop()
            if leaf is None:
                break
            missing = [want - count for want, count in zip(missing, leaf.counts, strict=True)]
            for g, pages in enumerate(leaf.pages):
                freed[g].append(pages if leaf.counts[g] == len(pages) else pages[pages >= 0])
            self.evictable = [have - count for have, count in zip(self.evictable, leaf.counts, strict=True)]
            self.evicted_pages = [have + count for have, count in zip(self.evicted_pages, leaf.counts, strict=True)]
            self.evicted.add(leaf.mark)
            self.remove(leaf)
        return [np.concatenate(f) if f else none() for f in freed]

    def remove(self, leaf: Node) -> None:
        """Take a leaf out of the tree; `cached` no longer counts its pages."""
        parent = leaf.parent
        assert parent is not None
        del parent.children[leaf.key[: self.page_size].tobytes()]
        self.cached = [have - count for have, count in zip(self.cached, leaf.counts, strict=True)]
        if self.watch is not None:
            self.watch.removed(leaf)
        leaf.parent = None
        self._queue.forget(leaf)
        if self.quota is not None:
            self.quota.left(leaf)
        if not parent.children and not parent.lock:
            if parent.parent is None:
                self._forget(parent)
            else:
                self._offer(parent)

    def nodes(self) -> list[Node]:
        """All nodes but the roots."""
        stack = [child for root in self._roots.values() for child in root.children.values()]
        found = []
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(node.children.values())
        return found

    def sketch(self, most: int, looks: int = 4096) -> list[tuple[int, int, int, int]]:
        """The `most` nodes with most hits, for a picture: (index of its parent here or -1, tokens, hits, lock) each.

        A node has no more hits than its parent, so parents come first. At most `looks` nodes are looked at.
        """
        rows: list[tuple[int, int, int, int]] = []
        queue: list[tuple[int, int, int, int, Node]] = []
        number = iter(range(looks))
        nodes: list[Node] = list(itertools.islice(self._roots.values(), looks))
        for above in range(-1, most - 1):
            for node in nodes:
                for n, child in zip(number, node.children.values(), strict=False):
                    heapq.heappush(queue, (-child.hits, -len(child.key), n, above, child))
            if not queue:
                break
            *_, parent, node = heapq.heappop(queue)
            rows.append((parent, len(node.key), node.hits, node.lock))
            nodes = [node]
        return rows

    def recount(self, nodes: list[Node]) -> None:
        """Set the counters to what `nodes`, all there are, have."""
        groups = range(len(self.windows))
        self.cached = [sum(n.counts[g] for n in nodes) for g in groups]
        self.evictable = [sum(n.counts[g] for n in nodes if not n.lock) for g in groups]
        for node in nodes:
            if not node.children and not node.lock:
                self._offer(node)

    def _root(self, namespace: str) -> Root:
        root = self._roots[namespace] = Root(namespace, len(self.windows))
        root.sum = zlib.crc32(namespace.encode()) if namespace else 0
        return root

    def _hang(self, parent: Node, tokens: np.ndarray, pages: list[np.ndarray], tenant: str) -> Node:
        node = Node(parent, tokens.copy(), [p.copy() for p in pages], tenant)
        parent.children[tokens[: self.page_size].tobytes()] = node
        self._place(node)
        self.evicted.discard(node.mark)
        node.born = next(self._clock)
        self.cached = [have + count for have, count in zip(self.cached, node.counts, strict=True)]
        self.evictable = [have + count for have, count in zip(self.evictable, node.counts, strict=True)]
        if self.quota is not None:
            for g, count in enumerate(node.counts):
                self.quota.charge(tenant, g, count)
        if self.watch is not None:
            self.watch.stored(node)
        return node

    def _fill(self, node: Node, group: int, given: np.ndarray) -> np.ndarray:
        """Take pages where the node lacks them (a window group's); returns those not taken."""
        missing = (node.pages[group] < 0) & (given >= 0)
        count = int(np.count_nonzero(missing))
        if count:
            node.pages[group][missing] = given[missing]
            node.counts[group] += count
            self.cached[group] += count
            if node.lock == 0:
                self.evictable[group] += count
            if self.quota is not None:
                self.quota.charge(node.tenant, group, count)
        return given[~missing & (given >= 0)]

    def _split(self, node: Node, length: int) -> Node:
        """Cut the first `length` tokens off into a new parent. `node` keeps the tail, so its holders hold all."""
        assert node.parent is not None
        cut = length // self.page_size
        upper = Node(node.parent, node.key[:length], [p[:cut].copy() for p in node.pages], node.tenant)
        upper.lock, upper.last_use, upper.born = node.lock, node.last_use, node.born
        upper.hits, upper.priority = node.hits, node.priority
        node.parent.children[upper.key[: self.page_size].tobytes()] = upper
        node.key, node.pages, node.parent = node.key[length:], [p[cut:].copy() for p in node.pages], upper
        node.counts = [whole - part for whole, part in zip(node.counts, upper.counts, strict=True)]
        upper.children[node.key[: self.page_size].tobytes()] = node
        self._place(upper)
        self._place(node)
        if self.watch is not None:
            self.watch.split(upper, node)
        return upper

    def _place(self, node: Node) -> None:
        """Set depth and sums from the parent's."""
        parent, size = node.parent, self.page_size
        assert parent is not None
        node.depth = parent.depth + len(node.key)
        node.mark = extended(parent.sum, node.key[:size])
        node.sum = extended(node.mark, node.key[size:])

    def _offer(self, node: Node) -> None:
        """`node` is an unlocked leaf: it may go."""
        self._queue.offer(node)
        if self.quota is not None:
            self.quota.offer(node)

    def _forget(self, node: Node) -> None:
        """Namespaces come from clients and are without number: an empty, unused root must not stay."""
        if isinstance(node, Root) and not node.children and node.lock == 0:
            self._roots.pop(node.namespace, None)

    def _touch(self, node: Node, priority: float, hits: int) -> None:
        now = next(self._clock)
        for n in upward(node):
            n.last_use = now
            n.hits += hits
            if n.priority < priority:
                n.priority = priority


def upward(node: Node | None) -> Iterator[Node]:
    """`node` and all above it, the root included."""
    while node is not None:
        yield node
        node = node.parent


def extended(checksum: int, tokens: np.ndarray) -> int:
    """The checksum of a prefix that goes on with `tokens`; the same wherever nodes were cut on the way."""
    return zlib.crc32(tokens.data, checksum)


def none() -> np.ndarray:
    """No pages."""
    return np.empty(0, dtype=np.int32)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common prefix of two int arrays."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


def _window_prefixes(present: np.ndarray, window_pages: int) -> np.ndarray:
    """bool [pages + 1]: for each n whether pages max(0, n - window_pages) .. n-1 are all present."""
    absent = np.concatenate([[0], np.cumsum(~present)])
    ends = np.arange(len(present) + 1)
    return absent[ends] == absent[np.maximum(0, ends - window_pages)]
