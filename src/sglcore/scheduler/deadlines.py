"""Deadlines: which requests have taken longer than they may."""

from __future__ import annotations

import heapq

from sglcore.request import Request


class Deadlines:
    """A heap of (when, serial, request). Costs a comparison a step; an ended request is forgotten when its time comes,
    or when more ended ones than open ones are kept."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._serial = 0

    def watch(self, request: Request, at: float) -> None:
        """`request` must have ended by `at`, on the scheduler's clock."""
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, request))

    def prune(self, open_requests: int) -> None:
        """Forget ended requests once they are most of what is kept."""
        if len(self._heap) > 64 + 2 * open_requests:
            self._heap = [entry for entry in self._heap if not entry[2].finished]
            heapq.heapify(self._heap)

    @property
    def next(self) -> float | None:
        """When the next one is due; None if none is."""
        return self._heap[0][0] if self._heap else None

    def expired(self, now: float) -> list[Request]:
        """Requests whose time is up; each is told once."""
        late = []
        while self._heap and self._heap[0][0] <= now:
            request = heapq.heappop(self._heap)[2]
            if not request.finished:
                late.append(request)
        return late
