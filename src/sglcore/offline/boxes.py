"""Boxes: where the engine's thread puts what a call is waiting for, and how the caller takes it out."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol

from sglcore.errors import EngineDead
from sglcore.request import RequestOutput

Item = list[RequestOutput] | EngineDead  # EngineDead: nothing more will come


class Box(Protocol):
    """One call's. Filled by the engine's thread alone; taken from by its caller alone."""

    loop: asyncio.AbstractEventLoop | None  # whose thread takes from it; None: the caller's, which blocks

    def put(self, item: Item) -> None:
        """Called in the thread that takes, where `loop` is set."""
        ...


class BlockingBox:
    """Of a call that blocks its thread."""

    loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self._items: SimpleQueue[Item] = SimpleQueue()

    def put(self, item: Item) -> None:
        """Add an item; wakes who waits."""
        self._items.put(item)

    def get(self) -> list[RequestOutput]:
        """All that has come, at least one item's. Raises EngineDead where the engine is gone."""
        outputs = list(_outputs(self._items.get()))
        with suppress(Empty):
            while True:
                outputs += _outputs(self._items.get_nowait())
        return outputs


class AsyncBox:
    """Of a call that awaits; belongs to the loop that is running when it is made."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        self._items: asyncio.Queue[Item] = asyncio.Queue()

    def put(self, item: Item) -> None:
        """Add an item, in the loop's thread."""
        self._items.put_nowait(item)

    async def get(self) -> list[RequestOutput]:
        """All that has come, at least one item's. Raises EngineDead where the engine is gone."""
        outputs = list(_outputs(await self._items.get()))
        while not self._items.empty():
            outputs += _outputs(self._items.get_nowait())
        return outputs


def deliver(items: Iterable[tuple[Box, Item]]) -> list[Box]:
    """Fill boxes from another thread, waking each event loop once. Returns those whose loop is closed."""
    of_loop: dict[asyncio.AbstractEventLoop, list[tuple[Box, Item]]] = defaultdict(list)
    for box, item in items:
        if box.loop is None:
            box.put(item)
        else:
            of_loop[box.loop].append((box, item))
    lost = []
    for loop, pairs in of_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, pairs)
        except RuntimeError:  # closed, with calls in it that were never cancelled
            lost += [box for box, _ in pairs]
    return lost


def _put_all(pairs: list[tuple[Box, Item]]) -> None:
    for box, item in pairs:
        box.put(item)


def _outputs(item: Item) -> list[RequestOutput]:
    if isinstance(item, EngineDead):
        raise EngineDead(item.message, remedy=item.remedy)
    return item
