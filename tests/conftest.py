"""Shared fixtures. Folders under tests/ mirror src/sglcore."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def strict_books() -> Iterator[None]:
    """An engine that a test builds or starts ends where its KV books do not balance; it looks whenever it rests."""
    from sglcore.engine import build, cache

    def strict(*args: Any, **options: Any) -> Any:
        return ledger(*args, **options | {"strict": True})

    ledger = build.KVLedger
    patch = pytest.MonkeyPatch()
    patch.setattr(build, "KVLedger", strict)
    patch.setattr(cache.CacheKeeper, "INTERVAL", 0.0)
    patch.setitem(os.environ, "SGLCORE_STRICT_CHECKS", "1")
    yield
    patch.undo()
