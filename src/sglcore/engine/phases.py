"""Phases of a start, with their times: what is being done, how far it is, how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """One line of news about a phase. `seconds` is set once, when it is over."""

    phase: str
    fraction: float = 0.0
    seconds: float | None = None


class Phases:
    """Tells a listener about each phase; remembers how long it took."""

    def __init__(self, tell: Callable[[Progress], None] | None = None) -> None:
        self.times: dict[str, float] = {}
        self._tell = tell or (lambda progress: None)

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a block; yields a function that reports the fraction done."""
        start = time.perf_counter()
        self._tell(Progress(name))
        yield lambda fraction: self._tell(Progress(name, fraction))
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Record a phase measured elsewhere."""
        self.times[name] = self.times.get(name, 0.0) + seconds
        self._tell(Progress(name, 1.0, seconds))
