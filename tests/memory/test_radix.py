from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglcore.memory.radix import RadixTree


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def put(tree: RadixTree, tokens: np.ndarray, first: int, namespace: str = "") -> list[np.ndarray]:
    """Insert whole `tokens` with pages first, first+1 ...; returns what was not taken."""
    node, length, _ = tree.match(namespace, tokens)
    rest = tokens[length:]
    pages = np.arange(first, first + len(rest) // tree.page_size, dtype=np.int32)
    return tree.insert(node, rest, [pages] * len(tree.windows))[1]


def test_match_gives_the_pages_of_the_longest_whole_page_prefix():
    tree = RadixTree(2, (0,))
    put(tree, ids(1, 2, 3, 4, 5, 6), 10)
    node, length, _ = tree.match("", ids(1, 2, 3, 4, 9, 9))
    assert length == 4
    assert tree.prefix_pages(node)[0].tolist() == [10, 11]
    assert tree.match("", ids(1, 9))[1] == 0
    assert tree.match("other", ids(1, 2))[1] == 0


def test_split_keeps_the_lock_of_who_holds_the_tail():
    tree = RadixTree(1, (0,))
    put(tree, ids(1, 2, 3, 4), 0)
    tail, *_ = tree.match("", ids(1, 2, 3, 4))
    tree.lock(tail)
    tree.match("", ids(1, 2, 7))  # splits after 2
    assert tree.evictable[0] == 0
    assert tree.evict(np.array([4]))[0].tolist() == []
    tree.unlock(tail)
    assert tree.evictable[0] == 4
    assert sorted(tree.evict(np.array([4]))[0].tolist()) == [0, 1, 2, 3]
    assert tree.nodes() == []


def test_eviction_takes_the_least_recently_used_leaf_first():
    tree = RadixTree(1, (0,))
    put(tree, ids(1, 2), 0)
    put(tree, ids(3, 4), 2)
    tree.match("", ids(1, 2))
    assert sorted(tree.evict(np.array([1]))[0].tolist()) == [2, 3]
    assert tree.matched("", ids(1, 2)) == 2


def test_duplicates_come_back_to_the_caller():
    tree = RadixTree(1, (0,))
    root, *_ = tree.match("", ids(1, 2, 3))
    tree.insert(root, ids(1, 2), [ids(5, 6)])
    _, kept = tree.insert(root, ids(1, 2, 3), [ids(7, 8, 9)])
    assert kept[0].tolist() == [7, 8]
    assert tree.prefix_pages(tree.match("", ids(1, 2, 3))[0])[0].tolist() == [5, 6, 9]


def test_window_group_serves_prefixes_of_which_the_next_position_sees_all_it_may():
    tree = RadixTree(1, (0, 3))
    root, *_ = tree.match("", ids(1))
    tree.insert(root, ids(1, 2, 3, 4, 5), [ids(0, 1, 2, 3, 4), ids(-1, -1, -1, 8, 9)])
    assert tree.matched("", ids(1, 2, 3, 4, 5)) == 5  # the next sees itself and the two before: 4 and 5
    assert tree.matched("", ids(1, 2, 3, 4, 7)) == 0  # needs window pages of 3 and 4; only 4 is there
    assert tree.cached == [5, 2]
    # another row brings the missing window pages: the tree takes those, the rest stays the row's
    _, kept = tree.insert(root, ids(1, 2, 3, 4, 5), [ids(10, 11, 12, 13, 14), ids(20, 21, 22, 23, 24)])
    assert kept[0].tolist() == [10, 11, 12, 13, 14] and kept[1].tolist() == [23, 24]
    assert tree.matched("", ids(1, 2, 3, 4, 7)) == 4


@pytest.mark.parametrize(
    ("window", "size", "present", "matched"),
    [
        (1, 1, [0, 0, 0, 0], 4),  # a window of one sees only itself: no cached page is needed
        (2, 1, [0, 0, 0, 1], 4),
        (2, 1, [0, 0, 1, 0], 3),
        (3, 1, [0, 0, 0, 1], 0),
        (5, 4, [0, 0, 1], 12),  # four positions before the next: exactly one page
        (6, 4, [0, 0, 1], 0),
        (6, 4, [0, 1, 1], 12),
    ],
)
def test_a_window_group_asks_for_no_position_more_than_the_next_one_sees(window, size, present, matched):
    tree = RadixTree(size, (0, window))
    root, *_ = tree.match("", ids(1))
    tokens = np.arange(size * len(present), dtype=np.int32)
    full = np.arange(len(present), dtype=np.int32)
    tree.insert(root, tokens, [full, np.where(present, full, -1).astype(np.int32)])
    assert tree.matched("", tokens) == matched


def test_two_window_groups_must_serve_the_same_prefix():
    tree = RadixTree(1, (0, 2, 3))
    root, *_ = tree.match("", ids(1))
    tree.insert(root, ids(1, 2, 3, 4, 5), [ids(0, 1, 2, 3, 4), ids(0, 1, -1, 3, -1), ids(0, 1, -1, 3, 4)])
    # by the first alone 4, by the second alone 5; at 4 the second lacks a page, so both can serve only 2
    assert tree.matched("", ids(1, 2, 3, 4, 5)) == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12),
    st.sampled_from([1, 2, 3]),
)
def test_matches_what_a_plain_set_of_prefixes_would(sequences, size):
    tree = RadixTree(size, (0,))
    prefixes: set[tuple[int, ...]] = {()}
    page = 0
    for tokens in sequences:
        whole = tokens[: len(tokens) // size * size]
        put(tree, ids(*whole), page)
        page += len(whole)
        prefixes |= {tuple(whole[:n]) for n in range(0, len(whole) + 1, size)}
        for probe in sequences:
            usable = len(probe) // size * size
            expected = max(n for n in range(0, usable + 1, size) if tuple(probe[:n]) in prefixes)
            assert tree.matched("", ids(*probe)) == expected


def test_evict_nothing_from_an_empty_tree():
    tree = RadixTree(4, (0,))
    assert tree.evict(np.array([3]))[0].tolist() == []


@pytest.mark.parametrize("size", [1, 4])
def test_tokens_beyond_whole_pages_are_not_matched(size):
    tree = RadixTree(size, (0,))
    put(tree, np.arange(8, dtype=np.int32), 0)
    assert tree.matched("", np.arange(7, dtype=np.int32)) == 7 // size * size
