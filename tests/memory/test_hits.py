from __future__ import annotations

import numpy as np
import pytest

from sglcore.memory.hits import EvictedPrefixes
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.radix import extended
from sglcore.memory.rows import RowTable
from sglcore.request import CACHE_MISSES


def make(cache: bool = True, windows: tuple[int, ...] = (0,), size: int = 4) -> KVLedger:
    table = RowTable(3, 64, 64 // size + 1, len(windows))
    return KVLedger([GroupPages(16, w) for w in windows], size, table, cache=cache)


def serve(ledger: KVLedger, tokens: list[int], usable: int | None = None) -> tuple[int, str]:
    row = ledger.rows.seat(np.array(tokens, dtype=np.int32))
    cached = ledger.admit(row, "", len(tokens) - 1 if usable is None else usable)
    reason = CACHE_MISSES[ledger.account(row, cached)]
    assert ledger.reserve(np.array([row], np.int32), np.array([len(tokens)])) is not None
    ledger.rows.computed[row] = len(tokens)
    ledger.reserve(np.array([row], np.int32), np.array([len(tokens) + ledger.page_size]))  # lets a window slide
    ledger.release(row, len(tokens))
    ledger.rows.leave(row)
    return cached, reason


A = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_reasons():
    ledger = make()
    assert serve(ledger, A) == (0, "no_match")
    assert serve(ledger, A) == (8, "")  # two whole pages; what is left is less than one
    assert serve(ledger, [1, 2, 3, 4]) == (0, "below_page")  # of four tokens three may be looked for
    assert serve(ledger, [1, 2, 3, 4, 9, 9, 9, 9, 9]) == (4, "no_match")
    assert serve(ledger, A, usable=5) == (4, "logprobs")
    assert serve(ledger, A, usable=8) == (8, "")  # logprobs were asked for, but took nothing
    assert serve(make(cache=False), A) == (0, "disabled")


def test_an_evicted_prefix_is_told_from_one_that_never_was():
    ledger = make()
    serve(ledger, A)
    ledger.tree.evict([2])
    ledger.allocators[0].give(np.array([0, 1], np.int32))
    ledger.check()
    assert serve(ledger, A) == (0, "evicted")
    assert len(ledger.tree.evicted) == 0  # it is cached again
    assert serve(ledger, A) == (8, "")
    assert serve(ledger, [7] * 8) == (0, "no_match")


def test_an_evicted_tail_is_found_after_its_head_was_split_and_came_again():
    ledger = make()
    serve(ledger, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 0])
    serve(ledger, [1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 0])  # splits
    for allocator, pages in zip(ledger.allocators, ledger.tree.evict([99]), strict=True):
        allocator.give(pages)
    serve(ledger, [1, 1, 1, 1, 2, 2, 2, 2])
    assert serve(ledger, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 0]) == (8, "evicted")
    assert serve(ledger, [1, 1, 1, 1, 2, 2, 2, 2, 5, 5, 5, 5, 0]) == (8, "no_match")


def test_a_window_that_let_go_is_a_reason():
    ledger = make(windows=(0, 5))
    serve(ledger, list(range(20)))
    cached, reason = serve(ledger, [*range(12), 50, 50, 50, 50, 50])
    assert (cached, reason) == (0, "window")


def test_counts():
    ledger = make()
    serve(ledger, A)
    serve(ledger, A)
    stats = ledger.stats()
    assert (stats["asked_tokens"], stats["hit_tokens"]) == (20, 8)
    assert stats["requests"] == dict.fromkeys(CACHE_MISSES, 0) | {"": 1, "no_match": 1}
    assert stats["missed_tokens"]["no_match"] == 10 and stats["missed_tokens"][""] == 2
    ledger.flush()
    assert ledger.stats()["evicted_tokens"] == 8


def test_the_memory_of_evicted_prefixes_is_bounded():
    evicted = EvictedPrefixes(100)
    for i in range(10_000):
        evicted.add(i)
    assert len(evicted) == 100 and 9_999 in evicted and 9_899 not in evicted


@pytest.mark.parametrize("cut", [0, 1, 700, 1024, 1999, 2000])
def test_a_prefix_sum_may_be_continued_anywhere(cut):
    tokens = np.random.default_rng(0).integers(0, 200_000, 2000, dtype=np.int32)
    assert extended(extended(7, tokens[:cut]), tokens[cut:]) == extended(7, tokens)
    assert extended(0, np.array([1, 0], np.int32)) != extended(0, np.array([1], np.int32))
