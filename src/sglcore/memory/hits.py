"""Why prompts were not served from the cache, and the counts of it.

To tell an evicted prefix from one that never was, the tree remembers the hash of what it evicted: a bounded number of
them, the oldest forgotten first, so `evicted` may be told as `no_match` after very long, never the other way round
but for a collision of checksums (of 32 bits: 1 in 65,536 lookups where all places are filled).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sglcore.request import CACHE_MISSES

if TYPE_CHECKING:
    from sglcore.memory.radix import Match, RadixTree

REMEMBERED = 65536  # evicted runs
NO_MATCH, BELOW_PAGE, EVICTED, WINDOW, LOGPROBS, DISABLED = range(1, len(CACHE_MISSES))


class EvictedPrefixes:
    """A bounded set of prefix sums."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._sums: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def __contains__(self, total: int) -> bool:
        return total in self._sums

    def add(self, total: int) -> None:
        """Remember one; the oldest is forgotten where there are too many."""
        self._sums[total] = None
        if len(self._sums) > self._most:
            del self._sums[next(iter(self._sums))]

    def discard(self, total: int) -> None:
        """It is cached again."""
        self._sums.pop(total, None)

    def clear(self) -> None:
        """Forget all."""
        self._sums.clear()


class HitCounts:
    """Prompt tokens asked of the cache, those it had, and the rest by reason."""

    def __init__(self) -> None:
        self.asked = self.hit = 0
        self.requests = [0] * len(CACHE_MISSES)
        self.missed = [0] * len(CACHE_MISSES)

    def add(self, reason: int, asked: int, hit: int) -> None:
        """One branch was admitted for the first time."""
        self.asked += asked
        self.hit += hit
        self.requests[reason] += 1
        self.missed[reason] += asked - hit

    def stats(self) -> dict[str, Any]:
        """Plain numbers, reasons by name ("" where everything that could be served was)."""
        return {
            "asked_tokens": self.asked,
            "hit_tokens": self.hit,
            "requests": dict(zip(CACHE_MISSES, self.requests, strict=True)),
            "missed_tokens": dict(zip(CACHE_MISSES, self.missed, strict=True)),
        }


def miss_reason(tree: RadixTree, match: Match | None, tokens: np.ndarray, usable: int, length: int) -> int:
    """Why not all of a row's first `length - 1` tokens came from the cache, as far as whole pages go.

    `tokens` is the row's, `usable` how many of them might be looked for; `match` None where there is no cache.
    """
    size = tree.page_size
    if match is None:
        return DISABLED
    if match.length + size > usable:  # all that was looked for is there
        if (length - 1) // size == match.length // size:
            return BELOW_PAGE if length - 1 < size else 0
        return LOGPROBS
    if match.length < match.present:
        return WINDOW
    return EVICTED if tree.was_evicted(match.node, tokens[match.length : match.length + size]) else NO_MATCH
