"""KVLedger: the one door to KV page numbers: match, reserve, commit, release, check.

Who owns a page, over a branch's life (one picture per group; the row's page table lists them all):

        0                n_tree                        num_pages
        | tree's, locked | the row's own               |         + duplicates: the row's own, outside

    admit    locks the longest cached prefix: n_tree = its pages
    reserve  takes free pages (evicting unlocked tree nodes if need be): num_pages grows
    commit   moves the row's own full pages into the tree: n_tree grows. Where the tree already has the
             run (another row was faster) the row keeps reading its own copies: they become duplicates
    release  commits what may be kept, frees the row's own and its duplicates, unlocks the prefix

So each page is free, or the tree's (cached), or exactly one row's (held), and per group
free + cached + held = total, which `check` proves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sglcore.errors import LedgerImbalance
from sglcore.memory.pages import PageAllocator
from sglcore.memory.radix import Node, RadixTree
from sglcore.memory.rows import RowTable

NewPages = tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class GroupPages:
    """One KV group's share of the pool: `total` pages; `window` tokens kept, 0 for all."""

    total: int
    window: int = 0


class KVLedger:
    """Page accounting of one engine. Not thread-safe: only the engine's loop touches it."""

    def __init__(self, groups: Sequence[GroupPages], page_size: int, rows: RowTable, *, cache: bool = True) -> None:
        self.page_size = page_size
        self.rows = rows
        self.windows = tuple(g.window for g in groups)
        self.allocators = [PageAllocator(g.total) for g in groups]
        self.tree = RadixTree(page_size, self.windows)
        self.cache = cache
        self._node: list[Node | None] = [None] * rows.size
        self._n_tree = np.zeros(rows.size, dtype=np.int32)
        self._duplicates: list[list[list[np.ndarray]]] = [[[] for _ in groups] for _ in range(rows.size)]
        self._namespace = [""] * rows.size

    # -- asking --

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` tokens fill, the last one perhaps in part."""
        return -(-tokens // self.page_size)

    def available(self) -> int:
        """Pages that could be had now in the scarcest group: free ones and evictable ones."""
        return min(a.free + int(e) for a, e in zip(self.allocators, self.tree.evictable, strict=True))

    def matched(self, namespace: str, tokens: np.ndarray) -> int:
        """How many leading tokens are cached; a tree walk, changes nothing."""
        return self.tree.matched(namespace, tokens) if self.cache else 0

    @property
    def total(self) -> int:
        """Pages in the smallest full group: bounds what one request may ever need."""
        full = [a.total for a, w in zip(self.allocators, self.windows, strict=True) if not w]
        return min(full or [a.total for a in self.allocators])

    # -- a row's life --

    def admit(self, row: int, namespace: str, usable: int) -> int:
        """Lock the cached prefix of the row's first `usable` tokens and enter its pages; returns its tokens."""
        self._namespace[row] = namespace
        if not self.cache:
            return 0
        node, length = self.tree.match(namespace, self.rows.tokens[row, :usable])
        self.tree.lock(node)
        self._node[row] = node
        count = length // self.page_size
        for g, pages in enumerate(self.tree.prefix_pages(node)):
            self.rows.pages[g][row, :count] = pages
        self._n_tree[row] = self.rows.num_pages[row] = count
        return length

    def reserve(self, rows: np.ndarray, upto: np.ndarray) -> NewPages | None:
        """Pages so that each of `rows` can hold `upto` tokens; per group (row, index, page) of the new ones.

        All or nothing: None, and nothing changed but evictions, where the pages cannot be had.
        """
        table = self.rows
        need = np.maximum(-(-upto // self.page_size) - table.num_pages[rows], 0)
        count = int(need.sum())
        if not count:
            return ()
        if self.windows != (0,) * len(self.windows):
            self._slide(rows)
        if not self._make_room(count):
            return None
        row = np.repeat(rows, need).astype(np.int32)
        first = np.cumsum(need) - need
        index = (table.num_pages[row] + np.arange(count) - np.repeat(first, need)).astype(np.int32)
        taken = []
        for g, allocator in enumerate(self.allocators):
            pages = allocator.take(count)
            table.pages[g][row, index] = pages
            taken.append((row, index, pages))
        table.num_pages[rows] += need
        return tuple(taken)

    def commit(self, row: int, tokens: int) -> None:
        """The first `tokens` tokens of the row are computed and sound: their full pages enter the tree."""
        old, start, end = self._node[row], int(self._n_tree[row]), tokens // self.page_size
        if not self.cache or old is None or end <= start:
            return
        size = self.page_size
        pages = [p[row, start:end] for p in self.rows.pages]
        node, kept = self.tree.insert(old, self.rows.tokens[row, start * size : end * size], pages)
        self.tree.lock(node)
        self.tree.unlock(old)
        self._node[row] = node
        self._n_tree[row] = end
        for g, duplicates in enumerate(kept):
            if len(duplicates):
                self._duplicates[row][g].append(duplicates)

    def release(self, row: int, keep: int) -> None:
        """The row ends. Its first `keep` tokens may serve others; everything else it held is free."""
        self.commit(row, keep)
        for g, allocator in enumerate(self.allocators):
            allocator.give(self._held(row, g))
            self._duplicates[row][g].clear()
        node = self._node[row]
        if node is not None:
            self.tree.unlock(node)
        self._node[row] = None
        self._n_tree[row] = self.rows.num_pages[row] = 0

    def flush(self) -> int:
        """Forget all prefixes no row uses; returns the number of pages freed in the first group."""
        freed = self.tree.evict(self.tree.evictable)
        for allocator, pages in zip(self.allocators, freed, strict=True):
            allocator.give(pages)
        return len(freed[0])

    # -- books --

    def held(self) -> list[int]:
        """Pages held by rows, by group."""
        return [sum(len(self._held(r, g)) for r in range(self.rows.size)) for g in range(len(self.allocators))]

    def check(self) -> None:
        """Every page has exactly one owner: free, tree or row. Raises LedgerImbalance with the numbers."""
        nodes = self.tree.nodes()
        for g, allocator in enumerate(self.allocators):
            cached = np.concatenate([n.pages[g] for n in nodes] or [np.empty(0, np.int32)])
            cached = cached[cached >= 0]
            held = np.concatenate([self._held(r, g) for r in range(self.rows.size)] or [np.empty(0, np.int32)])
            owners = np.bincount(
                np.concatenate([allocator.free_pages(), cached, held]).astype(np.int64), minlength=allocator.total
            )
            if (owners != 1).any() or len(cached) != self.tree.cached[g]:
                raise LedgerImbalance(
                    f"Group {g}: {allocator.free} free + {len(cached)} cached + {len(held)} held of {allocator.total}; "
                    f"pages with other than one owner: {np.flatnonzero(owners != 1)[:8].tolist()}."
                )
            unlocked = sum(int((n.pages[g] >= 0).sum()) for n in nodes if n.lock == 0)
            if unlocked != self.tree.evictable[g]:
                raise LedgerImbalance(f"Group {g}: {unlocked} pages unlocked, {self.tree.evictable[g]} counted.")

    def _held(self, row: int, group: int) -> np.ndarray:
        own = self.rows.pages[group][row, self._n_tree[row] : self.rows.num_pages[row]]
        return np.concatenate([own[own >= 0], *self._duplicates[row][group]])

    def _make_room(self, count: int) -> bool:
        missing = np.array([count - a.free for a in self.allocators], dtype=np.int64)
        if (missing <= 0).all():
            return True
        if (missing > self.tree.evictable).any():
            return False
        # A little more than asked, so that a full pool does not cost a walk over the tree every step.
        slack = np.array([a.total // 128 for a in self.allocators])
        wanted = np.where(missing > 0, np.minimum(missing + slack, self.tree.evictable), 0)
        for allocator, pages in zip(self.allocators, self.tree.evict(wanted), strict=True):
            allocator.give(pages)
        return all(a.free >= count for a in self.allocators)

    def _slide(self, rows: np.ndarray) -> None:
        """Free window groups' own pages that no position still to be computed can see."""
        for g, window in enumerate(self.windows):
            if not window:
                continue
            for row in rows.tolist():
                behind = max(0, int(self.rows.computed[row]) - window + 1) // self.page_size
                own = self.rows.pages[g][row, self._n_tree[row] : behind]
                self.allocators[g].give(own[own >= 0])
                own[:] = -1
