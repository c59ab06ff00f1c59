from __future__ import annotations

import numpy as np

from sglcore.builtin.policies import DFS_WEIGHT, FCFS, LOF, LPM, PRIORITY, RANDOM
from sglcore.testing import PolicyConformance
from sglcore.testing.policies import WaitingBranch, waiting


class TestFirstComeFirstServed(PolicyConformance):
    spec = FCFS

    def test_nobody_is_passed_over(self):
        queue = waiting(30)
        assert list(self.make().order(queue, len)) == queue


class TestLongestPrefixMatch(PolicyConformance):
    spec = LPM

    def test_cached_prefixes_go_first_and_ties_keep_their_order(self):
        queue = waiting(30)
        order = self.make().order(queue, lambda branch: branch.cached)
        assert [b.cached for b in order] == sorted((b.cached for b in queue), reverse=True)
        without = [b for b in order if not b.cached]
        assert without == [b for b in queue if not b.cached]

    def test_a_long_queue_is_left_in_order_without_walking_the_tree(self):
        walked = []
        queue = waiting(200)
        assert list(self.make().order(queue, walked.append)) == queue
        assert walked == []


def branch(name: str, tokens: list[int], cached: int, namespace: str = "") -> WaitingBranch:
    return WaitingBranch(name, 0.0, np.array(tokens, np.int32), cached, namespace=namespace)


class TestDepthFirstByWeight(PolicyConformance):
    spec = DFS_WEIGHT

    def test_the_heaviest_branch_of_the_tree_comes_first_and_children_before_their_parent(self):
        queue = [
            branch("light", [9, 9], 2),
            branch("stem", [1, 2], 2),
            branch("leaf a", [1, 2, 3], 3),
            branch("cold", [5], 0),
            branch("leaf b", [1, 2, 4], 3),
            branch("leaf c", [1, 2, 4, 5], 3),
        ]
        order = [b.rid for b in self.make().order(queue, lambda b: b.cached)]
        assert order == ["leaf b", "leaf c", "leaf a", "stem", "light", "cold"]

    def test_equal_tokens_of_two_namespaces_are_two_prefixes(self):
        queue = [branch("a", [1], 1, "x"), branch("b", [1], 1, "y"), branch("c", [1], 1, "y")]
        assert [b.rid for b in self.make().order(queue, lambda b: b.cached)] == ["b", "c", "a"]

    def test_a_long_queue_is_left_in_order_without_walking_the_tree(self):
        walked = []
        queue = waiting(200)
        assert list(self.make().order(queue, walked.append)) == queue and walked == []


class TestLongestOutputFirst(PolicyConformance):
    spec = LOF

    def test_the_longest_go_first_and_equals_keep_their_order(self):
        queue = waiting(30)
        order = list(self.make().order(queue, len))
        assert order == sorted(queue, key=lambda b: (-b.max_new_tokens, queue.index(b)))


class TestByPriority(PolicyConformance):
    spec = PRIORITY

    def test_the_highest_go_first_and_equals_keep_their_order(self):
        queue = waiting(30)
        order = list(self.make().order(queue, len))
        assert order == sorted(queue, key=lambda b: (-b.priority, queue.index(b)))


class TestRandomOrder(PolicyConformance):
    spec = RANDOM

    def test_it_is_neither_the_order_of_arrival_nor_its_reverse_and_stays_as_it_is_when_others_come(self):
        queue = waiting(40)
        order = list(self.make().order(queue, len))
        assert order not in (queue, queue[::-1])
        fewer = list(self.make().order(queue[:20], len))
        assert fewer == [b for b in order if b in fewer]
