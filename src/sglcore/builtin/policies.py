"""Queue policies: by arrival, cached prefix, expected length, priority, or chance."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence

from sglcore.contracts.policies import PolicySpec, W

# Beyond this many waiting requests walking the tree for each costs more than the order is worth.
LONGEST_RANKED_QUEUE = 128


class FirstComeFirstServed:
    """The order of arrival; a retracted request keeps its place."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        return waiting


class LongestPrefixMatch:
    """Those with most cached tokens first, so that a prefix is used before it is evicted (RadixAttention)."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        if len(waiting) > LONGEST_RANKED_QUEUE:
            return waiting
        return sorted(waiting, key=matched, reverse=True)


class DepthFirstByWeight:
    """One branch of the prefix tree after the other, that first from which most requests hang.

    Requests under one cached prefix come together, so that it is read while it is there and may then go.
    """

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        if len(waiting) > LONGEST_RANKED_QUEUE:
            return waiting
        prefixes = [(b.namespace.encode(), b.tokens[: matched(b)].tobytes()) for b in waiting]
        paths = _paths(sorted(set(prefixes)))
        weight = Counter(node for prefix in prefixes for node in paths[prefix])
        # What a node's own requests would be sorted by is cut short there: after those of its children.
        last = (1, 0, (b"", b""))

        def place(prefix: tuple[bytes, bytes]) -> list[tuple[int, int, tuple[bytes, bytes]]]:
            return [*((0, -weight[node], node) for node in paths[prefix]), last]

        ranked = sorted(range(len(waiting)), key=lambda i: place(prefixes[i]))
        return [waiting[i] for i in ranked]


def _paths(prefixes: list[tuple[bytes, bytes]]) -> dict[tuple[bytes, bytes], list[tuple[bytes, bytes]]]:
    """For each of the sorted prefixes: those of them that it begins with, the shortest first, itself last."""
    paths: dict[tuple[bytes, bytes], list[tuple[bytes, bytes]]] = {}
    above: list[tuple[bytes, bytes]] = []
    for namespace, prefix in prefixes:
        while above and not (above[-1][0] == namespace and prefix.startswith(above[-1][1])):
            above.pop()
        above.append((namespace, prefix))
        paths[namespace, prefix] = list(above)
    return paths


class LongestOutputFirst:
    """Those that may generate most first, so that the long ones do not run alone at the end of a batch job."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        return sorted(waiting, key=lambda branch: -branch.max_new_tokens)


class ByPriority:
    """The highest priority first, among equals by arrival."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        return sorted(waiting, key=lambda branch: -branch.priority)


class RandomOrder:
    """Any order: by a hash of the id, so that it is the same from one step to the next and in every process."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        return sorted(waiting, key=lambda branch: zlib.crc32(branch.rid.encode()))


def _spec(name: str, policy: type, summary: str) -> PolicySpec:
    return PolicySpec(name=name, factory=f"sglcore.builtin.policies:{policy.__name__}", summary=summary)


FCFS = _spec("fcfs", FirstComeFirstServed, "first come, first served")
LPM = _spec("lpm", LongestPrefixMatch, "longest cached prefix first")
DFS_WEIGHT = _spec("dfs-weight", DepthFirstByWeight, "prefix tree depth first, most wanted branch first")
LOF = _spec("lof", LongestOutputFirst, "longest allowed output first")
PRIORITY = _spec("priority", ByPriority, "highest priority first")
RANDOM = _spec("random", RandomOrder, "by a hash of the request's id")
