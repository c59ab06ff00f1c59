from __future__ import annotations

import numpy as np
import pytest

from sglcore.errors import LedgerImbalance
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.pages import PageAllocator
from sglcore.memory.rows import RowTable


def make(pages: int = 16, page_size: int = 2, rows: int = 3, cache: bool = True) -> KVLedger:
    table = RowTable(rows, 32, 17, 1)
    return KVLedger([GroupPages(pages)], page_size, table, cache=cache)


def start(ledger: KVLedger, tokens: list[int]) -> tuple[int, int]:
    """Seat a row with pages for all its tokens; returns (row, cached tokens)."""
    row = ledger.rows.seat(np.array(tokens, dtype=np.int32))
    cached = ledger.admit(row, "", len(tokens) - 1)
    assert ledger.reserve(np.array([row], np.int32), np.array([len(tokens)])) is not None
    ledger.check()
    return row, cached


def test_allocator_refuses_double_free_and_overdraft():
    allocator = PageAllocator(4)
    pages = allocator.take(3)
    assert pages.tolist() == [0, 1, 2]
    allocator.give(pages[:1])
    with pytest.raises(LedgerImbalance):
        allocator.give(pages[:1])
    with pytest.raises(LedgerImbalance):
        allocator.give(np.array([1, 1], np.int32))
    with pytest.raises(LedgerImbalance):
        allocator.take(3)
    assert allocator.free == 2


def test_release_keeps_whole_pages_and_frees_the_rest():
    ledger = make()
    row, _ = start(ledger, [1, 2, 3, 4, 5])
    assert ledger.held() == [3]
    ledger.release(row, 5)
    ledger.rows.leave(row)
    ledger.check()
    assert ledger.held() == [0] and ledger.tree.cached[0] == 2
    _, cached = start(ledger, [1, 2, 3, 4, 5])
    assert cached == 4


def test_the_slower_twin_keeps_its_copies_until_it_ends():
    ledger = make()
    a, _ = start(ledger, [1, 2, 3, 4, 5])
    b, _ = start(ledger, [1, 2, 3, 4, 6])
    ledger.commit(a, 4)
    pages_of_b = ledger.rows.pages[0][b, :2].copy()
    ledger.commit(b, 4)
    ledger.check()
    assert (ledger.rows.pages[0][b, :2] == pages_of_b).all()  # what it reads does not move
    assert ledger.held() == [1 + 3]
    ledger.release(b, 4)
    ledger.check()
    assert ledger.held() == [1]


def test_reserve_is_all_or_nothing_and_evicts_only_what_nobody_uses():
    ledger = make(pages=6)
    a, _ = start(ledger, [1, 2, 3, 4])
    ledger.release(a, 4)
    ledger.rows.leave(a)
    _, cached = start(ledger, [1, 2, 9, 9, 9, 9])  # uses the first cached page, locks it
    assert cached == 2
    c = ledger.rows.seat(np.array([7] * 8, np.int32))
    ledger.admit(c, "", 7)
    before = ledger.allocators[0].free
    assert ledger.reserve(np.array([c], np.int32), np.array([8])) is None
    ledger.check()
    assert ledger.rows.num_pages[c] == 0 and ledger.allocators[0].free == before
    assert ledger.reserve(np.array([c], np.int32), np.array([6])) is not None  # by evicting the second page
    ledger.check()
    assert ledger.tree.cached[0] == 1


def test_check_names_a_page_with_two_owners():
    ledger = make()
    row, _ = start(ledger, [1, 2, 3])
    ledger.rows.pages[0][row, 1] = ledger.rows.pages[0][row, 0]
    with pytest.raises(LedgerImbalance, match="other than one owner"):
        ledger.check()


def test_check_notices_a_lost_page():
    ledger = make()
    row, _ = start(ledger, [1, 2, 3])
    ledger.rows.num_pages[row] = 1
    with pytest.raises(LedgerImbalance):
        ledger.check()


def test_without_cache_nothing_is_kept():
    ledger = make(cache=False)
    row, _ = start(ledger, [1, 2, 3, 4])
    ledger.release(row, 4)
    ledger.rows.leave(row)
    ledger.check()
    assert ledger.allocators[0].free == 16
    assert start(ledger, [1, 2, 3, 4])[1] == 0
