"""What the engine view shows: a snapshot of the engine, asked for only while somebody looks.

All viewers of one API process share an answer for AGE seconds, so a hundred open pages cost the engine what one does.
Of the prefix cache it tells lengths and hit counts, never tokens or names of namespaces and tenants: whoever may call
the API may not thereby see what others have asked.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sglcore.errors import SglcoreError
from sglcore.server.face import Face

AGE = 0.9  # seconds; pages ask once a second
ENGINE_SECONDS = 2.0
MOST_NODES = 96  # of the tree
NUMBERS = (
    "num_running_reqs",
    "num_queue_reqs",
    "num_queue_tokens",
    "gen_throughput",
    "cache_hit_rate",
    "num_sessions",
    "steps",
    "paused",
)
COUNTS = ("asked_tokens", "hit_tokens", "evicted_tokens", "quarantined_pages")
COLUMNS = ("parent", "tokens", "hits", "in_use")


class EngineView:
    """One per API process."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self._made = float("-inf")
        self._last: dict[str, Any] = {}
        self._asking: asyncio.Task[dict[str, Any]] | None = None
        self._page_size = 0  # tokens in a page: the pool is told in tokens, its free part in pages; asked once

    async def now(self) -> dict[str, Any]:
        """The snapshot, at most AGE seconds old.

        `error` is there where the engine did not answer in ENGINE_SECONDS, with the numbers of before, if any.
        """
        if self._asking is None and time.monotonic() - self._made < AGE:
            return self._last
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._done)
        return await asyncio.shield(self._asking)  # a viewer who leaves takes nothing from the others

    def _done(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # looked at, or all who waited for it have left and nobody would

    async def _ask(self) -> dict[str, Any]:
        engine = self._face.context.engine
        try:
            async with asyncio.timeout(ENGINE_SECONDS):
                self._page_size = self._page_size or int((await engine.call("info")).get("page_size", 1))
                stats = await engine.call("metrics")
                tree = await engine.call("prefix_tree", most=MOST_NODES)
            snapshot = _snapshot(stats, tree, self._page_size)
        except (SglcoreError, TimeoutError) as error:
            before = {name: value for name, value in self._last.items() if name != "error"}
            snapshot = before | {"error": str(error) or "The engine does not answer."}
        state = {"live": self._face.vitals.not_live() is None, "not_ready": self._face.vitals.not_ready()}
        self._last = snapshot | state | {"engine_restarts": self._face.vitals.facts()["engine_restarts"]}
        self._made = time.monotonic()
        return self._last


def _snapshot(stats: dict[str, Any], tree: list[list[int]], page_size: int) -> dict[str, Any]:
    cached = int(stats.get("cached_pages", 0)) * page_size
    counts = stats.get("prefix_cache", {})
    return {
        **{name: stats.get(name, 0) for name in NUMBERS},
        "kv": _kv(stats, page_size),
        "tree": {"columns": COLUMNS, "rows": tree[:MOST_NODES], "cached_tokens": cached},
        "cache": {name: counts[name] for name in COUNTS if name in counts},
    }


def _kv(stats: dict[str, Any], page_size: int) -> dict[str, int]:
    """The pool in tokens. held: of rows, and what they lock of the cache; cached: the rest of the cache."""
    total, held = int(stats.get("max_total_num_tokens", 0)), int(stats.get("num_used_tokens", 0))
    free = max(0, min(int(stats.get("free_pages", 0)) * page_size, total - held))
    return {"total": total, "held": held, "free": free, "cached": max(0, total - held - free)}
