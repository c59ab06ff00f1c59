"""The books, audited: every page has one owner; and what is done where that is not so.

Pages with no owner or several are put in quarantine: never handed out again. Prefixes that stand on such pages leave
the tree. A row that reads them goes on with its copy of the page table, but nothing of it is kept for others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sglcore.errors import LedgerImbalance
from sglcore.memory.node import Node
from sglcore.memory.radix import none, upward

if TYPE_CHECKING:
    from sglcore.memory.ledger import KVLedger

log = logging.getLogger("sglcore.memory")


@dataclass(frozen=True)
class Finding:
    """One thing that is out of balance, and the pages of `group` concerned, if it is about pages."""

    text: str
    group: int = 0
    pages: np.ndarray = field(default_factory=none)


def findings(ledger: KVLedger) -> list[Finding]:
    """All that is out of balance."""
    nodes = ledger.tree.nodes()
    found = [f for g in range(len(ledger.allocators)) for f in _group(ledger, g, nodes)]
    wrong = [n for n, lock in _locks(ledger, nodes) if n.lock != lock]
    if wrong:
        found.append(Finding(f"{len(wrong)} nodes have other locks than rows that use them."))
    left = _left(ledger)
    if left:
        found.append(Finding(f"Rows {left[:8]} were left without giving back their pages."))
    return found


def require(found: Sequence[Finding]) -> None:
    """Raises LedgerImbalance with all findings if there are any."""
    if found:
        raise LedgerImbalance(" ".join(f.text for f in found))


def mend(ledger: KVLedger, found: Sequence[Finding]) -> None:
    """Take the pages concerned out of use and set the counters right."""
    log.error("KV books out of balance: %s The pages are not used again.", " ".join(f.text for f in found))
    groups = range(len(ledger.allocators))
    for row in _left(ledger):
        ledger.tainted[row] = True
        _quarantine(ledger, [ledger.held_by(row, g) for g in groups])
        ledger.release(row, 0)
    bad = [_named(found, g) for g in groups]
    for node in ledger.tree.nodes():
        if node.parent is not None and _any_of(node.pages, bad):
            _detach(ledger, node)
    for row in ledger.holders():
        if _any_of([ledger.held_by(row, g) for g in groups], bad):
            ledger.tainted[row] = True
    _quarantine(ledger, bad)
    _recount(ledger)


def _left(ledger: KVLedger) -> list[int]:
    """Rows nobody sits in that still have pages or a lock."""
    return [r for r in ledger.rows.vacant if ledger.rows.num_pages[r] or ledger.node[r] is not None]


def _named(found: Sequence[Finding], group: int) -> np.ndarray:
    return np.unique(np.concatenate([none(), *(f.pages for f in found if f.group == group)]))


def _any_of(pages: Sequence[np.ndarray], bad: Sequence[np.ndarray]) -> bool:
    return any(np.isin(p, b).any() for p, b in zip(pages, bad, strict=True))


def _group(ledger: KVLedger, g: int, nodes: list[Node]) -> list[Finding]:
    allocator, tree = ledger.allocators[g], ledger.tree
    cached = np.concatenate([none(), *(n.pages[g] for n in nodes)])
    cached = cached[cached >= 0]
    held = np.concatenate([none(), *(ledger.held_by(r, g) for r in ledger.holders())])
    taken = np.concatenate([allocator.free_pages(), cached, held]).astype(np.int64)
    owners = np.bincount(taken, minlength=allocator.total)
    wrong = np.flatnonzero((owners != 1) & ~allocator.quarantined)
    found = []
    if len(wrong):
        text = (
            f"Group {g}: {allocator.free} free + {len(cached)} cached + {len(held)} held of {allocator.total}; "
            f"pages with other than one owner: {wrong[:8].tolist()}."
        )
        found.append(Finding(text, g, wrong.astype(np.int32)))
    if len(cached) != tree.cached[g]:
        found.append(Finding(f"Group {g}: {len(cached)} pages cached, {tree.cached[g]} counted."))
    unlocked = sum(n.counts[g] for n in nodes if n.lock == 0)
    if unlocked != tree.evictable[g]:
        found.append(Finding(f"Group {g}: {unlocked} pages unlocked, {tree.evictable[g]} counted."))
    return found


def _locks(ledger: KVLedger, nodes: list[Node]) -> list[tuple[Node, int]]:
    """Each node with the number of rows whose prefix passes through it."""
    users = Counter(id(n) for used in ledger.node for n in upward(used))
    return [(n, users[id(n)]) for n in nodes]


def _detach(ledger: KVLedger, top: Node) -> None:
    """Take a node and all below it out of the tree; their pages are free again unless a row reads them."""
    tree, parent = ledger.tree, top.parent
    assert parent is not None
    below = _below(top)
    members = {id(n) for n in below}
    readers = [r for r, used in enumerate(ledger.node) if used is not None and id(used) in members]
    for row in readers:
        used = ledger.node[row]
        assert used is not None
        tree.lock(parent)
        tree.unlock(used)
        ledger.node[row] = parent
        ledger.n_tree[row] = parent.depth // ledger.page_size
        ledger.tainted[row] = True
    for node in reversed(below):
        if readers:
            _quarantine(ledger, node.pages)
        else:
            for allocator, pages in zip(ledger.allocators, node.pages, strict=True):
                allocator.give(pages[(pages >= 0) & allocator.out(pages)])
        tree.remove(node)


def _below(top: Node) -> list[Node]:
    """`top` and all below it, parents first."""
    found = [top]
    for node in found:
        found.extend(node.children.values())
    return found


def _quarantine(ledger: KVLedger, pages: Sequence[np.ndarray]) -> None:
    for allocator, numbers in zip(ledger.allocators, pages, strict=True):
        allocator.quarantine(numbers[numbers >= 0])


def _recount(ledger: KVLedger) -> None:
    """Set locks and counters to what is there."""
    nodes = ledger.tree.nodes()
    for node, lock in _locks(ledger, nodes):
        node.lock = lock
    ledger.tree.recount(nodes)
