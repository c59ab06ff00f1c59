"""How a check of the kit is seen to fail."""

from __future__ import annotations

from typing import Any

import pytest


def seen(suite: type, check: str, message: str, *arguments: Any) -> None:
    """Run one check of a suite by hand: it must fail, and say so in words that match `message`."""
    with pytest.raises(AssertionError, match=message):
        getattr(suite(), check)(*arguments)


def checks(suite: type) -> list[str]:
    """Names of a suite's checks."""
    return [name for name in dir(suite) if name.startswith("test_")]
