"""RadixTree: prefixes of past and running branches, each run of tokens with the pages that hold it.

Keys are token runs whose length is a multiple of the page size, under a namespace. A node owns the
pages of its run, one array per KV group; -1 stands where a window group has let a page go. After
RadixAttention (Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs").
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

import numpy as np


class Node:
    """A run of tokens below `parent`. `lock` counts the rows whose prefix passes through it."""

    __slots__ = ("children", "key", "last_use", "lock", "pages", "parent")

    def __init__(self, parent: Node | None, key: np.ndarray, pages: list[np.ndarray]) -> None:
        self.parent = parent
        self.key = key  # int32 [tokens]
        self.pages = pages  # G x int32 [tokens / page_size]
        self.children: dict[bytes, Node] = {}
        self.lock = 0
        self.last_use = 0


class Root(Node):
    """Where a namespace's prefixes hang; forgotten when nothing hangs there and no row started from it."""

    __slots__ = ("namespace",)

    def __init__(self, namespace: str, groups: int) -> None:
        super().__init__(None, _none(), [_none() for _ in range(groups)])
        self.namespace = namespace


class RadixTree:
    """Numbers only: it never allocates; pages enter with `insert` and come back from `evict`."""

    def __init__(self, page_size: int, windows: tuple[int, ...]) -> None:
        """`windows[g]` is group g's sliding window in tokens, 0 for a full group."""
        self.page_size = page_size
        self.windows = windows
        self.cached = np.zeros(len(windows), dtype=np.int64)  # pages owned, by group
        self.evictable = np.zeros(len(windows), dtype=np.int64)  # of those, in unlocked nodes
        self._roots: dict[str, Root] = {}
        self._clock = itertools.count(1)

    # -- looking --

    def match(self, namespace: str, tokens: np.ndarray) -> tuple[Node, int]:
        """Longest usable prefix of `tokens`: (its last node, its length). Splits a node at the end of the match."""
        path = self._walk(namespace, tokens)
        length = self._servable([(node, part) for node, part in path])
        node: Node = self._roots.get(namespace) or self._roots.setdefault(namespace, Root(namespace, len(self.windows)))
        done = 0
        for child, part in path:
            part = min(part, length - done)
            if part <= 0:
                break
            node = child if part == len(child.key) else self._split(child, part)
            done += part
        self._touch(node)
        return node, length

    def matched(self, namespace: str, tokens: np.ndarray) -> int:
        """Length of that prefix, changing nothing."""
        return self._servable(self._walk(namespace, tokens))

    def prefix_pages(self, node: Node) -> list[np.ndarray]:
        """Pages from the root down to `node`, per group."""
        path = list(self._upward(node))[::-1]
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
        """Longest prefix that every group can serve: a window group needs only its last `window` tokens."""
        length = sum(part for _, part in path)
        for g, window in enumerate(self.windows):
            if not window or not length:
                continue
            present = np.concatenate([n.pages[g][: part // self.page_size] for n, part in path]) >= 0
            length = min(length, _window_prefix(present, -(-window // self.page_size)) * self.page_size)
        return length

    # -- changing --

    def insert(self, node: Node, tokens: np.ndarray, pages: list[np.ndarray]) -> tuple[Node, list[np.ndarray]]:
        """Hang `tokens` (whole pages) below `node` with the pages that hold them.

        Returns the deepest node and, per group, the pages the tree did not take because it already
        has that run; those stay the caller's.
        """
        size = self.page_size
        rejected: list[list[np.ndarray]] = [[] for _ in self.windows]
        done = 0
        while done < len(tokens):
            child = node.children.get(tokens[done : done + size].tobytes())
            if child is None:
                node = self._hang(node, tokens[done:], [p[done // size :] for p in pages])
                break
            part = _common(child.key, tokens[done:]) // size * size
            if part < len(child.key):
                child = self._split(child, part)
            for g, given in enumerate(pages):
                rejected[g].append(self._fill(child, g, given[done // size : (done + part) // size]))
            node, done = child, done + part
        self._touch(node)
        return node, [np.concatenate(r) if r else _none() for r in rejected]

    def lock(self, node: Node) -> None:
        """Keep `node` and all above it until `unlock`."""
        for n in self._upward(node):
            if n.lock == 0:
                self.evictable -= self._counts(n)
            n.lock += 1

    def unlock(self, node: Node) -> None:
        """Undo one `lock`."""
        for n in self._upward(node):
            n.lock -= 1
            if n.lock == 0:
                self.evictable += self._counts(n)
            self._forget(n)

    def evict(self, needed: np.ndarray) -> list[np.ndarray]:
        """Drop least recently used unlocked leaves until each group gave `needed[g]` pages; returns them per group."""
        heap = [(n.last_use, id(n), n) for n in self.nodes() if not n.children and n.lock == 0]
        heapq.heapify(heap)
        freed: list[list[np.ndarray]] = [[] for _ in self.windows]
        missing = np.array(needed, dtype=np.int64)
        while heap and (missing > 0).any():
            _, _, leaf = heapq.heappop(heap)
            counts = self._remove(leaf)
            missing -= counts
            for g, pages in enumerate(leaf.pages):
                freed[g].append(pages[pages >= 0])
            parent = leaf.parent
            assert parent is not None
            self._forget(parent)
            if parent.parent is not None and not parent.children and parent.lock == 0:
                heapq.heappush(heap, (parent.last_use, id(parent), parent))
        return [np.concatenate(f) if f else _none() for f in freed]

    def nodes(self) -> list[Node]:
        """All nodes but the roots."""
        stack = [child for root in self._roots.values() for child in root.children.values()]
        found = []
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(node.children.values())
        return found

    def _hang(self, parent: Node, tokens: np.ndarray, pages: list[np.ndarray]) -> Node:
        node = Node(parent, tokens.copy(), [p.copy() for p in pages])
        parent.children[tokens[: self.page_size].tobytes()] = node
        counts = self._counts(node)
        self.cached += counts
        self.evictable += counts
        return node

    def _fill(self, node: Node, group: int, given: np.ndarray) -> np.ndarray:
        """Take pages where the node lacks them (a window group's); returns those not taken."""
        missing = (node.pages[group] < 0) & (given >= 0)
        count = int(missing.sum())
        if count:
            node.pages[group][missing] = given[missing]
            self.cached[group] += count
            if node.lock == 0:
                self.evictable[group] += count
        return given[~missing & (given >= 0)]

    def _split(self, node: Node, length: int) -> Node:
        """Cut the first `length` tokens off into a new parent. `node` keeps the tail, so its holders hold all."""
        assert node.parent is not None
        cut = length // self.page_size
        upper = Node(node.parent, node.key[:length], [p[:cut].copy() for p in node.pages])
        upper.lock, upper.last_use = node.lock, node.last_use
        node.parent.children[upper.key[: self.page_size].tobytes()] = upper
        node.key, node.pages, node.parent = node.key[length:], [p[cut:].copy() for p in node.pages], upper
        upper.children[node.key[: self.page_size].tobytes()] = node
        return upper

    def _remove(self, leaf: Node) -> np.ndarray:
        assert leaf.parent is not None
        del leaf.parent.children[leaf.key[: self.page_size].tobytes()]
        counts = self._counts(leaf)
        self.cached -= counts
        self.evictable -= counts
        return counts

    def _forget(self, node: Node) -> None:
        """Namespaces come from clients and are without number: an empty, unused root must not stay."""
        if isinstance(node, Root) and not node.children and node.lock == 0:
            self._roots.pop(node.namespace, None)

    def _touch(self, node: Node) -> None:
        now = next(self._clock)
        for n in self._upward(node):
            n.last_use = now

    def _upward(self, node: Node | None) -> Iterator[Node]:
        """`node` and all above it, the root included."""
        while node is not None:
            yield node
            node = node.parent

    def _counts(self, node: Node) -> np.ndarray:
        return np.array([(p >= 0).sum() for p in node.pages], dtype=np.int64)


def _none() -> np.ndarray:
    return np.empty(0, dtype=np.int32)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common prefix of two int arrays."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    return int(differ.argmax()) if differ.any() else n


def _window_prefix(present: np.ndarray, window_pages: int) -> int:
    """Largest n such that pages max(0, n - window_pages) .. n-1 are all present."""
    absent = np.concatenate([[0], np.cumsum(~present)])
    ends = np.arange(len(present) + 1)
    holes = absent[ends] - absent[np.maximum(0, ends - window_pages)]
    return int(np.flatnonzero(holes == 0)[-1])
