from __future__ import annotations

import numpy as np

from sglcore.memory.eviction import LeastRecentlyUsed
from sglcore.memory.ledger import CacheOptions, GroupPages, KVLedger
from sglcore.memory.quota import TenantQuota
from sglcore.memory.radix import RadixTree
from sglcore.memory.rows import RowTable


def make(share: float | None, pages: int = 40) -> KVLedger:
    return KVLedger([GroupPages(pages)], 1, RowTable(3, 32, 33, 1), cache=CacheOptions(tenant_share=share))


def serve(ledger: KVLedger, tokens: list[int], tenant: str, namespace: str = "") -> int:
    """One request from its seat to its end; returns the cached tokens."""
    row = ledger.rows.seat(np.array(tokens, dtype=np.int32))
    cached = ledger.admit(row, namespace, len(tokens) - 1, tenant=tenant)
    assert ledger.reserve(np.array([row], np.int32), np.array([len(tokens)])) is not None
    ledger.release(row, len(tokens))
    ledger.rows.leave(row)
    ledger.check()
    return cached


def cached(ledger: KVLedger, *tokens: int) -> int:
    return ledger.matched("", np.array(tokens, np.int32))


def test_a_tenant_over_its_bound_loses_its_own_oldest_prefix():
    ledger = make(0.25)  # 10 pages each
    serve(ledger, [1] * 2 + [2] * 2, "ann")
    serve(ledger, [3] * 4, "bob")
    serve(ledger, [4] * 4, "ann")
    assert ledger.quota is not None and ledger.quota.pages("ann") == [8]
    serve(ledger, [5] * 4, "ann")
    assert cached(ledger, 1, 1, 2, 2) == 0  # its oldest, though bob's is no younger than its second
    assert cached(ledger, 3, 3, 3, 3) == cached(ledger, 4, 4, 4, 4) == cached(ledger, 5, 5, 5, 5) == 4
    assert ledger.quota.pages("ann") == [8] and ledger.quota.pages("bob") == [4]


def test_what_exceeds_the_bound_alone_is_cached_up_to_it():
    ledger = make(0.25)
    serve(ledger, list(range(16)), "ann")
    assert ledger.tree.cached == [10]
    assert cached(ledger, *range(16)) == 10
    assert ledger.held() == [0]


def test_without_a_tenant_the_namespace_is_one():
    ledger = make(0.25)
    serve(ledger, [1] * 8, "", "salt")
    assert ledger.quota is not None
    assert ledger.quota.pages("salt") == [8] and ledger.quota.pages("") == [0]


def test_others_read_what_a_tenant_brought_and_are_not_charged():
    ledger = make(0.25)
    serve(ledger, [1, 2, 3, 4, 5, 6, 7, 8], "ann")
    assert serve(ledger, [1, 2, 3, 4, 5, 6, 7, 8, 9], "bob") == 8
    assert ledger.quota is not None and ledger.quota.pages("bob") == [1]


def test_tenants_without_number_leave_nothing_behind():
    ledger = make(0.25)
    for i in range(300):
        serve(ledger, [i, i, i, i], f"tenant-{i}")
    assert ledger.quota is not None
    assert len(ledger.quota) <= 10  # 40 pages hold ten of them
    ledger.flush()
    assert len(ledger.quota) == 0


def test_no_bound_no_books():
    assert make(None).quota is None


def test_pages_that_a_window_group_gets_later_are_charged():
    quota = TenantQuota((10, 10), LeastRecentlyUsed())
    tree = RadixTree(1, (0, 2), quota=quota)
    root = tree.match("", np.array([1], np.int32)).node
    tokens, pages = np.array([1, 2, 3], np.int32), np.array([0, 1, 2], np.int32)
    tree.insert(root, tokens, [pages, np.array([-1, -1, 2], np.int32)], "ann")
    assert quota.pages("ann") == [3, 1]
    tree.insert(root, tokens, [pages, pages], "bob")  # fills what is missing; the node stays ann's
    assert quota.pages("ann") == [3, 3] and quota.pages("bob") == [0, 0]
    tree.evict([3, 3])
    assert len(quota) == 0
