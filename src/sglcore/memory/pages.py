"""PageAllocator: which page numbers are free."""

from __future__ import annotations

import numpy as np

from sglcore.errors import LedgerImbalance


class PageAllocator:
    """A stack of free page numbers; pages that go out first are neighbours, so fresh rows are contiguous."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._stack = np.arange(total - 1, -1, -1, dtype=np.int32)
        self.free = total
        self._out = np.zeros(total, dtype=bool)

    def take(self, count: int) -> np.ndarray:
        """`count` page numbers, int32. The caller has checked `free`; raises LedgerImbalance otherwise."""
        if count > self.free:
            raise LedgerImbalance(f"{count} pages asked for, {self.free} of {self.total} are free.")
        pages = self._stack[self.free - count : self.free][::-1].copy()
        self.free -= count
        self._out[pages] = True
        return pages

    def give(self, pages: np.ndarray) -> None:
        """Take pages back. Raises LedgerImbalance on a page that is free already or named twice."""
        count = len(pages)
        if not count:
            return
        if not self._out[pages].all() or (count > 1 and len(np.unique(pages)) != count):
            raise LedgerImbalance(f"Pages {pages[:8].tolist()} freed twice.")
        self._out[pages] = False
        self._stack[self.free : self.free + count] = pages[::-1]
        self.free += count

    def free_pages(self) -> np.ndarray:
        """The free numbers, int32 [free]; for checks."""
        return self._stack[: self.free]
