from __future__ import annotations

import numpy as np
import pytest

from sglcore.errors import LedgerImbalance
from sglcore.memory.events import BlockRemoved, KVEventLog
from sglcore.memory.ledger import CacheOptions, GroupPages, KVLedger
from sglcore.memory.rows import RowTable


def make(*, strict: bool = False, events: KVEventLog | None = None) -> KVLedger:
    table = RowTable(4, 32, 33, 1)
    options = CacheOptions(tenant_share=0.9, events=events)
    return KVLedger([GroupPages(30)], 1, table, cache=options, strict=strict)


def start(ledger: KVLedger, tokens: list[int]) -> int:
    row = ledger.rows.seat(np.array(tokens, dtype=np.int32))
    ledger.admit(row, "", len(tokens) - 1)
    assert ledger.reserve(np.array([row], np.int32), np.array([len(tokens)])) is not None
    return row


def end(ledger: KVLedger, row: int, keep: int = 32) -> None:
    ledger.release(row, min(keep, int(ledger.rows.length[row])))
    ledger.rows.leave(row)


def drain(ledger: KVLedger) -> set[int]:
    """Everything that can still be had, at the end."""
    ledger.flush()
    ledger.check()
    return set(ledger.allocators[0].take(ledger.allocators[0].free).tolist())


def test_balanced_books_are_left_alone():
    ledger = make()
    end(ledger, start(ledger, [1, 2, 3]))
    start(ledger, [1, 2, 4, 5])
    assert ledger.settle() == 0 and ledger.stats()["imbalances"] == ledger.stats()["quarantined_pages"] == 0


def test_strict_books_end_the_engine():
    ledger = make(strict=True)
    row = start(ledger, [1, 2, 3])
    ledger.rows.num_pages[row] = 2
    with pytest.raises(LedgerImbalance, match="other than one owner"):
        ledger.settle()


def test_a_lost_page_is_set_aside_and_the_rest_goes_on():
    ledger = make()
    row = start(ledger, [1, 2, 3])
    lost = int(ledger.rows.pages[0][row, 2])
    ledger.rows.num_pages[row] = 2
    assert ledger.settle() == 1
    ledger.check()
    end(ledger, row)
    assert ledger.total == 29
    assert drain(ledger) == set(range(30)) - {lost}


def test_a_page_of_two_rows_is_set_aside_when_they_end_and_never_cached():
    ledger = make()
    a, b = start(ledger, [1, 2, 3]), start(ledger, [4, 5, 6])
    lost = int(ledger.rows.pages[0][b, 1])
    shared = int(ledger.rows.pages[0][a, 1])
    ledger.rows.pages[0][b, 1] = shared
    assert ledger.settle() == 1
    end(ledger, a)
    end(ledger, b)
    ledger.check()
    assert ledger.tree.cached == [0]
    assert drain(ledger) == set(range(30)) - {lost, shared}
    assert ledger.stats()["quarantined_pages"] == 2


def test_a_cached_page_that_is_free_as_well_leaves_the_tree_with_all_below_it():
    log = KVEventLog(1)
    ledger = make(events=log)
    end(ledger, start(ledger, [1, 2, 3, 4]))
    end(ledger, start(ledger, [1, 2, 5, 6]))  # a branch after 2
    reader = start(ledger, [1, 2, 3, 4, 9])
    log.take()
    (node,) = [n for n in ledger.tree.nodes() if n.key.tolist() == [3, 4]]
    page = int(node.pages[0][0])
    ledger.allocators[0].give(np.array([page], np.int32))  # a double free nobody could see then
    assert ledger.settle() >= 1
    ledger.check()
    assert ledger.matched("", np.array([1, 2, 3, 4], np.int32)) == 2
    assert ledger.matched("", np.array([1, 2, 5, 6], np.int32)) == 4
    batch = log.take()
    assert batch is not None and [type(e) for e in batch.events] == [BlockRemoved]
    before = ledger.rows.pages[0][reader, :5].copy()
    ledger.commit(reader, 5)  # nothing of it may be kept
    assert (ledger.rows.pages[0][reader, :5] == before).all()  # what it reads does not move
    end(ledger, reader)
    ledger.check()
    assert ledger.matched("", np.array([1, 2, 3, 4, 9], np.int32)) == 2
    left = drain(ledger)
    assert page not in left and left == set(range(30)) - set(node.pages[0].tolist())


def test_a_cached_page_with_two_owners_that_nobody_reads_costs_that_page_only():
    ledger = make()
    end(ledger, start(ledger, [1, 2, 3, 4]))
    (node,) = ledger.tree.nodes()
    page = int(node.pages[0][1])
    ledger.allocators[0].give(np.array([page], np.int32))
    assert ledger.settle() >= 1
    assert ledger.tree.nodes() == []
    assert drain(ledger) == set(range(30)) - {page}


def test_a_double_free_is_set_aside_at_once():
    ledger = make()
    allocator = ledger.allocators[0]
    pages = allocator.take(3)
    allocator.give(pages)
    allocator.give(pages[:1])
    again = allocator.take(2)
    allocator.give(np.concatenate([again, again[:1]]))
    assert ledger.stats()["imbalances"] == 2
    assert ledger.stats()["quarantined_pages"] == 2
    ledger.check()
    assert drain(ledger) == set(range(30)) - {int(pages[0]), int(again[0])}


def test_a_forgotten_lock_is_undone():
    ledger = make()
    end(ledger, start(ledger, [1, 2, 3]))
    (node,) = ledger.tree.nodes()
    ledger.tree.lock(node)
    with pytest.raises(LedgerImbalance, match="locks"):
        ledger.check()
    assert ledger.settle() == 1
    ledger.check()
    assert drain(ledger) == set(range(30))


def test_counters_that_went_wrong_are_counted_anew():
    ledger = make()
    end(ledger, start(ledger, [1, 2, 3]))
    ledger.tree.cached, ledger.tree.evictable = [7], [1]
    assert ledger.settle() == 2
    ledger.check()
    assert drain(ledger) == set(range(30))


def test_a_row_that_was_left_with_its_pages_is_cleared():
    ledger = make()
    end(ledger, start(ledger, [1, 2, 3]))
    row = start(ledger, [1, 2, 7, 8])
    own = set(ledger.held_by(row, 0).tolist())
    ledger.rows.leave(row)  # without release
    assert ledger.settle() == 1
    ledger.check()
    assert drain(ledger) == set(range(30)) - own


def test_a_reader_of_a_whole_prefix_that_went_still_keeps_its_namespace():
    ledger = make()
    end(ledger, start(ledger, [1, 2, 3]))
    reader = start(ledger, [1, 2, 3, 4])
    (node,) = ledger.tree.nodes()
    ledger.allocators[0].give(node.pages[0][:1])
    ledger.settle()
    root = ledger.node[reader]
    assert root is not None and root.parent is None and root.lock == 1
    assert ledger.tree.match("", np.array([9], np.int32)).node is root
    end(ledger, reader)
    assert root.lock == 0
    ledger.check()
