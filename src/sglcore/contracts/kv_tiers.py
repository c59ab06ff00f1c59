"""KV tiers: where cached pages rest when the device has no room for them. Provisional: drafted, not yet called.

A tier (host memory, a disk, a store that several engines share) keeps copies of the pages of the prefix tree by their
keys. The tree asks it for what it no longer holds itself; the request waits in state WAITING_KV, outside the batch, and
nothing else waits with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    from sglcore.contracts.pages import PageRun, Transfer


@dataclass(frozen=True, kw_only=True)
class KVTierSpec(Spec):
    """A place for pages. `factory(context: PageContext) -> KVTier`, once per rank, in the engine's loop thread.

    medium: where the bytes rest.
    level: how far from the device; tiers are asked in this order, nearest (lowest) first.
    kinds: kinds of `KVGroup` whose pages it can hold; a model with another kind runs without the tier.
    persistent: what is stored outlives the process.
    shared: other engines may store and load under the same keys at the same time.
    partial: a load may end with some leading pages only; where False it is all or nothing.
    """

    medium: Literal["host", "disk", "remote"] = "host"
    level: int = 0
    kinds: tuple[str, ...] = ("full",)
    persistent: bool = False
    shared: bool = False
    partial: bool = True


class KVTier(Protocol):
    """Copies of pages by key. Lives in the engine process, one a rank.

    Every call comes from the engine's loop thread, between steps, and returns at once: bytes move on threads or streams
    of the tier's own. What is stored is the tier's; what lies in the pool is the core's and only lent to a transfer. A
    tier may forget anything at any time, so a load may bring less than `lookup` promised.
    """

    def lookup(self, keys: Sequence[bytes]) -> int:
        """How many of the leading keys it holds now. Called once per admission of a branch; no network, no disk."""
        ...

    def reserve(self, keys: Sequence[bytes]) -> int:
        """Make room for the pages of these keys; returns how many leading ones it can take, 0 if none.

        Called before `store`, which then stores no more than that. Keys that are there already count as room.
        """
        ...

    def store(self, run: PageRun) -> Transfer:
        """Begin to copy a run out of the pool. The core calls it for pages about to be evicted from the tree, and
        frees them when the transfer has ended; the request that computed them may be long gone."""
        ...

    def load(self, run: PageRun, *, deadline: float) -> Transfer:
        """Begin to copy a run into the pool; the pages in `run` are reserved, with anything in them.

        deadline: monotonic seconds, after which the core cancels and computes what has not arrived. Pages count as
        arrived in order, so that computing can begin behind them.
        """
        ...

    def forget(self, keys: Sequence[bytes] | None) -> None:
        """Drop these keys, or all of this layout (None), as when the cache is flushed or weights change. Once it has
        returned no `lookup` finds them."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counters for `/metrics` and `/server_info`: flat, name -> number. At most every 100 ms."""
        ...

    def close(self) -> None:
        """End what is running, as if cancelled, and release threads, files and memory. Idempotent; may block."""
        ...
