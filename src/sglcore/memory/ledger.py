"""KVLedger: the one door to KV page numbers: match, reserve, commit, release, check.

Who owns a page, over a branch's life (one picture per group; the row's page table lists them all):

        0                n_tree                        num_pages
        | tree's, locked | the row's own               |         + duplicates: the row's own, outside

    admit    locks the longest cached prefix: n_tree = its pages
    reserve  takes free pages (evicting unlocked tree nodes if need be): num_pages grows
    commit   moves the row's own full pages into the tree: n_tree grows. Where the tree already has the
             run (another row was faster) the row keeps reading its own copies: they become duplicates
    release  commits what may be kept, frees the row's own and its duplicates, unlocks the prefix

So each page is free, or the tree's (cached), or exactly one row's (held), or in quarantine, and per group
free + cached + held + quarantined = total, which `check` proves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sglcore.contracts.policies import EvictionOrder
from sglcore.memory import audit
from sglcore.memory.events import KVEventLog
from sglcore.memory.eviction import LeastRecentlyUsed
from sglcore.memory.hits import HitCounts, miss_reason
from sglcore.memory.node import Node
from sglcore.memory.pages import PageAllocator
from sglcore.memory.quota import TenantQuota
from sglcore.memory.radix import RadixTree
from sglcore.memory.rows import RowTable

NewPages = tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class GroupPages:
    """One KV group's share of the pool: `total` pages; `window` tokens kept, 0 for all."""

    total: int
    window: int = 0


@dataclass(frozen=True)
class CacheOptions:
    """How prefixes are kept. tenant_share: most of the pool that one tenant's may be, None for no bound."""

    keep: bool = True
    order: EvictionOrder | None = None
    tenant_share: float | None = None
    events: KVEventLog | None = None


class KVLedger:
    """Page accounting of one engine. Not thread-safe: only the engine's loop touches it."""

    def __init__(
        self,
        groups: Sequence[GroupPages],
        page_size: int,
        rows: RowTable,
        *,
        cache: bool | CacheOptions = True,
        strict: bool = True,
    ) -> None:
        """`strict` raises LedgerImbalance where books are out of balance; else the pages concerned are set aside."""
        options = cache if isinstance(cache, CacheOptions) else CacheOptions(keep=cache)
        order = options.order or LeastRecentlyUsed()
        self.page_size = page_size
        self.rows = rows
        self.strict = strict
        self.windows = tuple(g.window for g in groups)
        self.allocators = [PageAllocator(g.total, strict=strict) for g in groups]
        self.events = options.events
        self.quota = None
        if options.tenant_share is not None:
            self.quota = TenantQuota(tuple(int(g.total * options.tenant_share) for g in groups), order)
        self.tree = RadixTree(page_size, self.windows, order=order, quota=self.quota, watch=self.events)
        self.cache = options.keep
        self.hits = HitCounts()
        self.imbalances = 0  # found by `settle`
        self.node: list[Node | None] = [None] * rows.size
        self.n_tree = np.zeros(rows.size, dtype=np.int32)
        self.tainted = np.zeros(rows.size, dtype=bool)  # its pages must not enter the tree
        self._duplicates: list[list[list[np.ndarray]]] = [[[] for _ in groups] for _ in range(rows.size)]
        self._miss = np.zeros(rows.size, dtype=np.int8)
        self._tenant = [""] * rows.size
        self._priority = np.zeros(rows.size)

    # -- asking --

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` tokens fill, the last one perhaps in part."""
        return -(-tokens // self.page_size)

    def available(self) -> int:
        """Pages that could be had now in the scarcest group: free ones and evictable ones."""
        return min(a.free + e for a, e in zip(self.allocators, self.tree.evictable, strict=True))

    def matched(self, namespace: str, tokens: np.ndarray) -> int:
        """How many leading tokens are cached; a tree walk, changes nothing."""
        return self.tree.matched(namespace, tokens) if self.cache else 0

    @property
    def total(self) -> int:
        """Pages in the smallest full group: bounds what one request may ever need."""
        sizes = [a.total - int(np.count_nonzero(a.quarantined)) for a in self.allocators]
        full = [size for size, window in zip(sizes, self.windows, strict=True) if not window]
        return min(full or sizes)

    # -- a row's life --

    def admit(self, row: int, namespace: str, usable: int, *, tenant: str = "", priority: float = 0.0) -> int:
        """Lock the cached prefix of the row's first `usable` tokens and enter its pages; returns its tokens.

        What the row will leave in the cache is charged to `tenant` ("": to the namespace) and kept by `priority`.
        """
        self._tenant[row] = tenant or namespace
        self._priority[row] = priority
        self.tainted[row] = False
        match = self.tree.match(namespace, self.rows.tokens[row, :usable], priority) if self.cache else None
        self._miss[row] = miss_reason(self.tree, match, self.rows.tokens[row], usable, int(self.rows.length[row]))
        if match is None:
            return 0
        self.tree.lock(match.node)
        self.node[row] = match.node
        count = match.length // self.page_size
        for g, pages in enumerate(self.tree.prefix_pages(match.node)):
            self.rows.pages[g][row, :count] = pages
        self.n_tree[row] = self.rows.num_pages[row] = count
        return match.length

    def account(self, row: int, cached: int) -> int:
        """The row's admission holds: count what the cache was asked for. Returns the index in CACHE_MISSES."""
        reason = int(self._miss[row])
        self.hits.add(reason, int(self.rows.length[row]), cached)
        return reason

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
        row = rows[need > 0]
        if len(row) == count:  # one page each at most, as all decode steps
            index = table.num_pages[row]
        else:
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

    def reserve_row(self, row: int, upto: int) -> NewPages | None:
        """`reserve` for one row: the same, without the arithmetic over arrays."""
        table = self.rows
        first, end = int(table.num_pages[row]), self.pages_for(upto)
        if end <= first:
            return ()
        if any(self.windows):
            self._slide(np.array([row], dtype=np.int32))
        if not self._make_room(end - first):
            return None
        rows, index = np.full(end - first, row, dtype=np.int32), np.arange(first, end, dtype=np.int32)
        taken = []
        for g, allocator in enumerate(self.allocators):
            pages = allocator.take(end - first)
            table.pages[g][row, first:end] = pages
            taken.append((rows, index, pages))
        table.num_pages[row] = end
        return tuple(taken)

    def commit(self, row: int, count: int) -> None:
        """The first `count` tokens of the row are computed and sound: their full pages enter the tree."""
        old, start, end = self.node[row], int(self.n_tree[row]), count // self.page_size
        if old is None or end <= start or self.tainted[row]:
            return
        if self.quota is not None:
            end -= self._over_quota(self._tenant[row], end - start)
            if end <= start:
                return
        size = self.page_size
        pages = [p[row, start:end] for p in self.rows.pages]
        tokens = self.rows.tokens[row, start * size : end * size]
        node, kept = self.tree.insert(old, tokens, pages, self._tenant[row], float(self._priority[row]))
        self.tree.lock(node, moved_from=old)
        self.node[row] = node
        self.n_tree[row] = end
        for g, duplicates in enumerate(kept):
            if len(duplicates):
                self._duplicates[row][g].append(duplicates)

    def release(self, row: int, keep: int) -> None:
        """The row ends. Its first `keep` tokens may serve others; everything else it held is free."""
        self.commit(row, keep)
        for g, allocator in enumerate(self.allocators):
            allocator.give(self.held_by(row, g))
            self._duplicates[row][g].clear()
        node = self.node[row]
        if node is not None:
            self.tree.unlock(node)
        self.node[row] = None
        self.n_tree[row] = self.rows.num_pages[row] = 0

    def flush(self) -> int:
        """Forget all prefixes no row uses; returns the number of pages freed in the first group."""
        whole = self.events if self.tree.evictable == self.tree.cached else None
        if whole is not None:
            whole.clearing(True)
        freed = self.tree.evict(self.tree.evictable)
        for allocator, pages in zip(self.allocators, freed, strict=True):
            allocator.give(pages)
        if whole is not None:
            whole.clearing(False)
        self.tree.evicted.clear()
        return len(freed[0])

    # -- books --

    def held(self) -> list[int]:
        """Pages held by rows, by group."""
        return [sum(len(self.held_by(r, g)) for r in self.holders()) for g in range(len(self.allocators))]

    def holders(self) -> list[int]:
        """Rows that have pages, their own or the tree's."""
        found: list[int] = np.flatnonzero(self.rows.num_pages).tolist()
        return found

    def held_by(self, row: int, group: int) -> np.ndarray:
        """The row's own pages, duplicates included."""
        own = self.rows.pages[group][row, self.n_tree[row] : self.rows.num_pages[row]]
        return np.concatenate([own[own >= 0], *self._duplicates[row][group]])

    def check(self) -> None:
        """Every page has exactly one owner: free, tree, row or quarantine. Raises LedgerImbalance with the numbers."""
        audit.require(audit.findings(self))

    def settle(self) -> int:
        """Check; where not `strict`, take what is out of balance out of use, for ever, and go on.

        Returns the number of findings. Costs a walk over all pages: for idle times.
        """
        found = audit.findings(self)
        if found and self.strict:
            audit.require(found)
        if found:
            self.imbalances += len(found)
            audit.mend(self, found)
        return len(found)

    def stats(self) -> dict[str, Any]:
        """Counters of the cache and the books, plain numbers; pages are those of the first group."""
        return {
            **self.hits.stats(),
            "evicted_tokens": self.tree.evicted_pages[0] * self.page_size,
            "tenants": len(self.quota) if self.quota else 0,
            "imbalances": self.imbalances + sum(a.imbalances for a in self.allocators),
            "quarantined_pages": sum(int(np.count_nonzero(a.quarantined)) for a in self.allocators),
        }

    def _over_quota(self, tenant: str, count: int) -> int:
        """Make room under a tenant's bound for `count` pages; returns how many of them find none."""
        quota = self.quota
        assert quota is not None
        over = quota.over(tenant, count)
        if max(over) > 0:
            for allocator, pages in zip(self.allocators, self.tree.evict(over, tenant), strict=True):
                allocator.give(pages)
            over = quota.over(tenant, count)
        return min(max(0, *over), count)

    def _make_room(self, count: int) -> bool:
        if all(count <= a.free for a in self.allocators):
            return True
        missing = np.array([count - a.free for a in self.allocators])
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
                own = self.rows.pages[g][row, self.n_tree[row] : behind]
                self.allocators[g].give(own[own >= 0])
                own[:] = -1
