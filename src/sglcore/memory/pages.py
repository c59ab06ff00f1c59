"""PageAllocator: which page numbers are free."""

from __future__ import annotations

import logging

import numpy as np

from sglcore.errors import LedgerImbalance

log = logging.getLogger("sglcore.memory")


class PageAllocator:
    """A stack of free page numbers; pages that go out first are neighbours, so fresh rows are contiguous.

    A page in quarantine is never free again. Unless `strict`, a page that comes back twice is put there.
    """

    def __init__(self, total: int, *, strict: bool = True) -> None:
        self.total = total
        self.strict = strict
        self.quarantined = np.zeros(total, dtype=bool)
        self.imbalances = 0
        self._stack = np.arange(total - 1, -1, -1, dtype=np.int32)
        self.free = total
        self._out = np.zeros(total, dtype=bool)
        self._mark = np.zeros(total, dtype=np.int32)  # scratch of `_distinct`

    def take(self, count: int) -> np.ndarray:
        """`count` page numbers, int32. The caller has checked `free`; raises LedgerImbalance otherwise."""
        if count > self.free:
            raise LedgerImbalance(f"{count} pages asked for, {self.free} of {self.total} are free.")
        pages = self._stack[self.free - count : self.free][::-1].copy()
        self.free -= count
        self._out[pages] = True
        return pages

    def give(self, pages: np.ndarray) -> None:
        """Take pages back. On a page that is free already or named twice raises LedgerImbalance if `strict`."""
        count = len(pages)
        if not count:
            return
        if not self._out[pages].all() or (count > 1 and not self._distinct(pages)):
            pages = self._sound(pages)
            count = len(pages)
        self._out[pages] = False
        self._stack[self.free : self.free + count] = pages[::-1]
        self.free += count

    def out(self, pages: np.ndarray) -> np.ndarray:
        """bool [pages]: not free and not in quarantine."""
        return self._out[pages]

    def free_pages(self) -> np.ndarray:
        """The free numbers, int32 [free]; for checks."""
        return self._stack[: self.free]

    def quarantine(self, pages: np.ndarray) -> None:
        """Never hand these out again, whoever has them now."""
        self.quarantined[pages] = True
        self._out[pages] = False
        free = np.unique(self._stack[: self.free])
        free = free[~self.quarantined[free]]
        self.free = len(free)
        self._stack[: self.free] = free[::-1]

    def _distinct(self, pages: np.ndarray) -> bool:
        """Whether no page is named twice, without sorting them: each must read back the index it wrote."""
        index = np.arange(len(pages), dtype=np.int32)
        self._mark[pages] = index
        return bool((self._mark[pages] == index).all())

    def _sound(self, pages: np.ndarray) -> np.ndarray:
        """Those of `pages` that may become free. A page may come back twice by a fault only."""
        numbers, times = np.unique(pages[~self.quarantined[pages]], return_counts=True)
        twice = numbers[~self._out[numbers] | (times > 1)]
        if len(twice):
            text = f"Pages {twice[:8].tolist()} freed twice."
            if self.strict:
                raise LedgerImbalance(text)
            log.error("KV books out of balance: %s They are not used again.", text)
            self.imbalances += 1
            self.quarantine(twice)
        return numbers[self._out[numbers] & ~self.quarantined[numbers]]
