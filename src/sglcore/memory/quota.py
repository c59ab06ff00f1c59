"""TenantQuota: how much of the cache one tenant's prefixes may fill.

A node is charged to the tenant whose row brought it, until it is evicted; others may read it. A tenant at its bound
loses its own least valuable prefixes first; what then still has no room is not cached, so the bound is never passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglcore.contracts.policies import EvictionOrder
from sglcore.memory.eviction import EvictionQueue

if TYPE_CHECKING:
    from sglcore.memory.radix import Node

QUEUE_BIT = 2


class Share:
    """What one tenant has: pages by group, and its leaves by rank."""

    __slots__ = ("pages", "queue")

    def __init__(self, groups: int, order: EvictionOrder) -> None:
        self.pages = [0] * groups
        self.queue = EvictionQueue(order, QUEUE_BIT)


class TenantQuota:
    """The shares of all tenants that have anything cached; told by the tree of every change."""

    def __init__(self, limit: tuple[int, ...], order: EvictionOrder) -> None:
        """`limit[g]` is the most pages of group g that one tenant's prefixes may be."""
        self.limit = limit
        self._order = order
        self._shares: dict[str, Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    def pages(self, tenant: str) -> list[int]:
        """Cached pages charged to a tenant, by group."""
        share = self._shares.get(tenant)
        return list(share.pages) if share else [0] * len(self.limit)

    def over(self, tenant: str, count: int) -> list[int]:
        """By group, how many pages a tenant would be over its bound with `count` more; at most 0 where it fits."""
        return [have + count - most for have, most in zip(self.pages(tenant), self.limit, strict=True)]

    def queue(self, tenant: str) -> EvictionQueue | None:
        """The tenant's own leaves; None where it has nothing cached."""
        share = self._shares.get(tenant)
        return share.queue if share else None

    def charge(self, tenant: str, group: int, count: int) -> None:
        """`count` more pages of a tenant are in the tree."""
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = Share(len(self.limit), self._order)
        share.pages[group] += count

    def offer(self, node: Node) -> None:
        """`node` is an unlocked leaf now."""
        share = self._shares.get(node.tenant)
        if share is not None:
            share.queue.offer(node)

    def left(self, node: Node) -> None:
        """`node` left the tree. Names come from clients and are without number: an empty share must not stay."""
        share = self._shares.get(node.tenant)
        if share is None:
            return
        share.queue.forget(node)
        share.pages = [have - count for have, count in zip(share.pages, node.counts, strict=True)]
        if not any(share.pages):
            del self._shares[node.tenant]
