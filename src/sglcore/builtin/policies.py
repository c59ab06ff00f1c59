"""Queue policies: first come first served, and longest prefix match."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sglcore.contracts.policies import PolicySpec, W

# Beyond this many waiting requests walking the tree for each costs more than the order is worth.
LONGEST_RANKED_QUEUE = 128


class FirstComeFirstServed:
    """The order of arrival; retracted requests come first."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        return waiting


class LongestPrefixMatch:
    """Those with most cached tokens first, so that a prefix is used before it is evicted (RadixAttention)."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        if len(waiting) > LONGEST_RANKED_QUEUE:
            return waiting
        return sorted(waiting, key=matched, reverse=True)


FCFS = PolicySpec(
    name="fcfs",
    factory="sglcore.builtin.policies:FirstComeFirstServed",
    summary="first come, first served",
)
LPM = PolicySpec(
    name="lpm",
    factory="sglcore.builtin.policies:LongestPrefixMatch",
    summary="longest cached prefix first",
)
