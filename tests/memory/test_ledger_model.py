"""The ledger against a model that knows what each page holds, under every order of eviction.

Whatever the order of arrivals, growth, commits, ends, evictions and flushes: books balance, what a row reads never
changes under it, the match is the longest prefix that all groups can serve, the lowest rank is evicted first, a tenant
keeps its bound, and the events tell exactly what the tree holds.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sglcore.memory.events import AllBlocksCleared, BlockStored, KVEventLog
from sglcore.memory.eviction import ORDERS
from sglcore.memory.ledger import CacheOptions, GroupPages, KVLedger
from sglcore.memory.node import Node, Root
from sglcore.memory.rows import RowTable

CONTEXT, ROWS = 24, 4
Key = tuple[str, tuple[int, ...]]  # a page's content: namespace and all tokens through its last position


class LedgerLife(RuleBasedStateMachine):
    @initialize(
        size=st.sampled_from([1, 2, 4]),
        windows=st.sampled_from([(0,), (0,), (0, 3), (0, 2, 5), (0, 1)]),
        order=st.sampled_from(sorted(ORDERS)),
        share=st.sampled_from([None, None, 0.3]),
        pages=st.integers(8, 40),
    )
    def start(self, size, windows, order, share, pages):
        self.size, self.windows = size, windows
        self.rows = RowTable(ROWS, CONTEXT, CONTEXT // size + 1, len(windows))
        self.order = ORDERS[order]()
        self.log = KVEventLog(size)
        options = CacheOptions(order=self.order, tenant_share=share, events=self.log)
        self.ledger = KVLedger([GroupPages(pages, w) for w in windows], size, self.rows, cache=options)
        self.content: list[dict[int, Key]] = [{} for _ in windows]
        self.seated: dict[int, str] = {}  # row -> namespace
        self.told: set[int] = set()

    # -- what happens --

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=14),
        namespace=st.sampled_from(["", "", "salt"]),
        tenant=st.sampled_from(["", "ann", "bob"]),
        priority=st.integers(-1, 2),
    )
    def seat(self, prompt, namespace, tenant, priority):
        if not self.rows.free_seats:
            return
        usable = len(prompt) - 1
        expected = self.longest(namespace, prompt[:usable])
        row = self.rows.seat(np.array(prompt, dtype=np.int32))
        assert self.ledger.matched(namespace, np.array(prompt[:usable], np.int32)) == expected
        cached = self.ledger.admit(row, namespace, usable, tenant=tenant, priority=priority)
        assert cached == expected
        if self.ledger.reserve(np.array([row], np.int32), np.array([len(prompt)])) is None:
            self.ledger.release(row, 0)
            self.rows.leave(row)
            return
        self.seated[row] = namespace
        self.rows.computed[row] = cached
        self.compute(row)

    @rule(pick=st.integers(0, 9), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=5))
    def grow(self, pick, tokens):
        row = self.pick(pick)
        if row is None or self.rows.length[row] + len(tokens) > CONTEXT:
            return
        length = int(self.rows.length[row])
        if self.ledger.reserve(np.array([row], np.int32), np.array([length + len(tokens)])) is not None:
            self.rows.tokens[row, length : length + len(tokens)] = tokens
            self.rows.length[row] += len(tokens)
            self.compute(row)

    @rule(pick=st.integers(0, 9))
    def commit(self, pick):
        row = self.pick(pick)
        if row is not None:
            self.ledger.commit(row, int(self.rows.computed[row]))

    @rule(pick=st.integers(0, 9), sound=st.booleans())
    def end(self, pick, sound):
        row = self.pick(pick)
        if row is not None:
            self.ledger.release(row, int(self.rows.computed[row]) if sound else 0)
            self.rows.leave(row)
            del self.seated[row]

    @rule()
    def evict_one(self):
        tree = self.ledger.tree
        leaves = [n for n in tree.nodes() if not n.children and not n.lock]
        lowest = min((self.order.rank(n) for n in leaves), default=None)
        freed = tree.evict([1] + [0] * (len(self.windows) - 1))
        for allocator, pages in zip(self.ledger.allocators, freed, strict=True):
            allocator.give(pages)
        assert [self.order.rank(n) for n in leaves if n.parent is None] == ([] if lowest is None else [lowest])

    @rule()
    def flush(self):
        kept = sum(n.lock > 0 for n in self.ledger.tree.nodes())
        self.ledger.flush()
        assert len(self.ledger.tree.nodes()) == kept

    # -- the model --

    def pick(self, number: int) -> int | None:
        rows = sorted(self.seated)
        return rows[number % len(rows)] if rows else None

    def compute(self, row: int) -> None:
        """Write each position's content into its page, as a step would."""
        tokens, namespace = self.rows.tokens[row], self.seated[row]
        for position in range(int(self.rows.computed[row]), int(self.rows.length[row])):
            for g in range(len(self.windows)):
                page = int(self.rows.pages[g][row, position // self.size])
                assert page >= 0, "a position to compute has no page"
                self.content[g][page] = (namespace, tuple(tokens[: position + 1].tolist()))
        self.rows.computed[row] = self.rows.length[row]

    def cached_pages(self) -> dict[Key, list[bool]]:
        """Every page-long prefix in the tree: which groups have its last page."""
        found: dict[Key, list[bool]] = {}
        for node in self.ledger.tree.nodes():
            namespace, above = self.path(node)
            for i in range(len(node.key) // self.size):
                key = (namespace, (*above, *node.key[: (i + 1) * self.size].tolist()))
                assert key not in found, "one prefix, two nodes"
                found[key] = [int(p[i]) >= 0 for p in node.pages]
                for g, pages in enumerate(node.pages):
                    assert pages[i] < 0 or self.content[g][int(pages[i])] == key, "a cached page holds something else"
        return found

    def path(self, node: Node) -> tuple[str, tuple[int, ...]]:
        tokens: list[int] = []
        above = node.parent
        while above is not None and above.parent is not None:
            tokens = above.key.tolist() + tokens
            above = above.parent
        assert isinstance(above, Root)
        return above.namespace, tuple(tokens)

    def longest(self, namespace: str, tokens: list[int]) -> int:
        """The longest prefix in whole pages of which every group has all that the next position sees."""
        pages, best, size = self.cached_pages(), 0, self.size
        for count in range(1, len(tokens) // size + 1):
            have = pages.get((namespace, tuple(tokens[: count * size])))
            if have is None:
                break
            seen = [max(0, count * size - w + 1) if w else 0 for w in self.windows]
            if all(
                pages[namespace, tuple(tokens[: (i + 1) * size])][g]
                for g, first in enumerate(seen)
                for i in range(first // size, count)
                if first < count * size
            ):
                best = count * size
        return best

    # -- what always holds --

    @invariant()
    def books_balance(self):
        if hasattr(self, "ledger"):
            self.ledger.check()
            self.cached_pages()

    @invariant()
    def rows_read_what_they_wrote_or_matched(self):
        for row, namespace in getattr(self, "seated", {}).items():
            computed, tokens = int(self.rows.computed[row]), self.rows.tokens[row]
            for g, window in enumerate(self.windows):
                first = max(0, computed - window + 1) if window else 0
                for i in range(-(-first // self.size), computed // self.size):
                    page = int(self.rows.pages[g][row, i])
                    expected = (namespace, tuple(tokens[: (i + 1) * self.size].tolist()))
                    assert self.content[g][page] == expected, "a page changed under its reader"

    @invariant()
    def what_rows_lock_stays_in_the_tree(self):
        there = {id(n) for n in self.ledger.tree.nodes()} if hasattr(self, "ledger") else set()
        for row in getattr(self, "seated", {}):
            node = self.ledger.node[row]
            assert node is not None and node.lock > 0
            assert isinstance(node, Root) or id(node) in there

    @invariant()
    def tenants_keep_their_bound(self):
        quota = self.ledger.quota if hasattr(self, "ledger") else None
        if quota is None:
            return
        have: dict[str, list[int]] = defaultdict(lambda: [0] * len(self.windows))
        for node in self.ledger.tree.nodes():
            have[node.tenant] = [a + b for a, b in zip(have[node.tenant], node.counts, strict=True)]
        assert len(quota) == len(have)
        for tenant, pages in have.items():
            assert pages == quota.pages(tenant)
            assert all(count <= most for count, most in zip(pages, quota.limit, strict=True))

    @invariant()
    def events_tell_what_the_tree_holds(self):
        if not hasattr(self, "ledger"):
            return
        batch = self.log.take()
        for event in batch.events if batch else []:
            if isinstance(event, AllBlocksCleared):
                self.told.clear()
            elif isinstance(event, BlockStored):
                assert event.parent_block_hash is None or event.parent_block_hash in self.told
                assert self.told.isdisjoint(event.block_hashes)
                self.told.update(event.block_hashes)
            else:
                assert self.told.issuperset(event.block_hashes)
                self.told.difference_update(event.block_hashes)
        assert self.told == {h for n in self.ledger.tree.nodes() for h in n.hashes}

    def teardown(self):
        if hasattr(self, "ledger"):
            for row in list(self.seated):
                self.ledger.release(row, 0)
                self.rows.leave(row)
            self.ledger.flush()
            self.ledger.check()
            assert [a.free for a in self.ledger.allocators] == [a.total for a in self.ledger.allocators]
            assert self.ledger.quota is None or len(self.ledger.quota) == 0


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
