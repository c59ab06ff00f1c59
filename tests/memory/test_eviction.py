from __future__ import annotations

import numpy as np
import pytest

from sglcore.memory.eviction import ORDERS, EvictionQueue, LeastRecentlyUsed
from sglcore.memory.node import Node, Root
from sglcore.memory.radix import RadixTree


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def tree_of(order: str) -> RadixTree:
    """Four prefixes 1, 2, 3, 4 of one page each, brought in this order with priorities 0, 5, 0, -1."""
    tree = RadixTree(1, (0,), order=ORDERS[order]())
    for token, priority in ((1, 0), (2, 5), (3, 0), (4, -1)):
        root = tree.match("", ids(99)).node
        tree.insert(root, ids(token), [ids(token)], priority=priority)
    return tree


@pytest.mark.parametrize(
    ("order", "gone"),
    [
        ("lru", [2, 4, 3, 1]),  # 3 and then 1 were used last
        ("fifo", [1, 2, 3, 4]),
        ("lfu", [2, 4, 1, 3]),  # 2 and 4 never, 1 once, 3 twice
        ("priority", [4, 3, 1, 2]),  # -1; then 0, the longer unused first; then 5
    ],
)
def test_what_goes_first(order, gone):
    tree = tree_of(order)
    tree.match("", ids(3))
    tree.match("", ids(3))
    tree.match("", ids(1))
    assert [int(tree.evict([1])[0][0]) for _ in range(4)] == gone


def test_a_use_raises_the_priority_of_what_is_used():
    tree = tree_of("priority")
    tree.match("", ids(4), priority=9)
    assert [int(tree.evict([1])[0][0]) for _ in range(4)] == [1, 3, 2, 4]


def test_a_split_leaves_both_parts_the_rank_of_the_whole():
    tree = RadixTree(1, (0,), order=ORDERS["priority"]())
    root = tree.match("", ids(9)).node
    tail, _ = tree.insert(root, ids(1, 2), [ids(1, 2)], priority=5)
    tree.insert(root, ids(3), [ids(3)], priority=1)
    upper = tree.match("", ids(1), priority=-9).node  # splits
    assert (tail.priority, upper.priority, tail.born, upper.hits) == (5, 5, upper.born, 1)
    assert [int(tree.evict([1])[0][0]) for _ in range(3)] == [3, 2, 1]


def test_a_parent_goes_after_its_children_whatever_its_rank():
    tree = RadixTree(1, (0,), order=ORDERS["fifo"]())
    root = tree.match("", ids(1)).node
    tree.insert(root, ids(1, 2), [ids(10, 11)])
    tree.insert(root, ids(1, 3), [ids(20, 12)])
    assert tree.evict([1])[0].tolist() == [11]
    assert tree.evict([1])[0].tolist() == [12]
    assert tree.evict([1])[0].tolist() == [10]


def test_a_rank_without_order_ends_and_takes_everything():
    class Dice:
        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

        def rank(self, run: object) -> float:
            return float(self.rng.random())

    tree = RadixTree(1, (0,), order=Dice())
    root = tree.match("", ids(0)).node
    for token in range(200):
        tree.insert(root, ids(token), [ids(token)])
    assert sorted(tree.evict([200])[0].tolist()) == list(range(200))
    assert tree.cached == tree.evictable == [0]


def test_nodes_that_left_another_way_do_not_pile_up_in_the_queue():
    queue = EvictionQueue(LeastRecentlyUsed(), 1)
    root = Root("", 1)
    for i in range(10_000):
        node = Node(root, ids(i), [ids(i)])
        queue.offer(node)
        node.parent = None
        queue.forget(node)
    assert len(queue) < 200
    assert queue.pop() is None and len(queue) == 0


def test_offered_twice_is_queued_once():
    queue = EvictionQueue(LeastRecentlyUsed(), 1)
    node = Node(Root("", 1), ids(1), [ids(1)])
    queue.offer(node)
    queue.offer(node)
    assert len(queue) == 1
    assert queue.pop() is node and queue.pop() is None
