"""Node: a run of cached tokens in the radix tree; and who may watch nodes come and go."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Node:
    """A run of tokens below `parent`. `lock` counts the rows whose prefix passes through it.

    last_use, born: ticks of the tree's clock. hits: requests served from it. priority: the highest of those that
    brought or used it. tenant: who brought it. queued: bits of the eviction queues it has an entry in.
    depth, sum: tokens from the root through its end, and their checksum; mark: the sum through its first page.
    hashes: one of each page, where there is a watch. A node without a parent that is no root has left the tree.
    """

    __slots__ = (
        "born",
        "children",
        "counts",
        "depth",
        "hashes",
        "hits",
        "key",
        "last_use",
        "lock",
        "mark",
        "pages",
        "parent",
        "priority",
        "queued",
        "sum",
        "tenant",
    )

    def __init__(self, parent: Node | None, key: np.ndarray, pages: list[np.ndarray], tenant: str = "") -> None:
        self.parent = parent
        self.key = key  # int32 [tokens]
        self.pages = pages  # G x int32 [tokens / page_size], -1 where a window group has let a page go
        self.counts = [int(np.count_nonzero(p >= 0)) for p in pages]  # pages it owns, by group
        self.children: dict[bytes, Node] = {}
        self.lock = self.last_use = self.born = self.hits = self.queued = 0
        self.depth = self.sum = self.mark = 0
        self.priority = float("-inf")
        self.tenant = tenant
        self.hashes: tuple[int, ...] = ()


class Root(Node):
    """Where a namespace's prefixes hang; forgotten when nothing hangs there and no row started from it."""

    __slots__ = ("namespace",)

    def __init__(self, namespace: str, groups: int) -> None:
        super().__init__(None, np.empty(0, np.int32), [np.empty(0, np.int32) for _ in range(groups)])
        self.namespace = namespace


class TreeWatch(Protocol):
    """Hears of every node that enters, is cut in two, or leaves. Called in the loop thread: be quick."""

    def stored(self, node: Node) -> None:
        """`node` hangs in the tree now."""
        ...

    def split(self, upper: Node, lower: Node) -> None:
        """`upper` is new and has the first part of the run; `lower` keeps the rest."""
        ...

    def removed(self, node: Node) -> None:
        """`node` has just left; its `parent` is still set."""
        ...
