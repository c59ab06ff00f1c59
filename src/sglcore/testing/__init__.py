"""The conformance kit: pytest base classes that a plugin's tests subclass. Public and versioned.

    from sglcore.testing import ModelConformance

    class TestMine(ModelConformance):
        spec = SPEC
        model_type = "mine"
        configs = {"tiny": {"hidden_size": 64, ...}}

Importing this package imports no torch; taking a name out of it does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglcore.testing.attention import AttentionConformance
    from sglcore.testing.harness import ModelHarness, PagedPool, PagedRow
    from sglcore.testing.models import ModelConformance

VERSION = 1

_HOMES = {
    "AttentionConformance": "attention",
    "ModelConformance": "models",
    "ModelHarness": "harness",
    "PagedPool": "harness",
    "PagedRow": "harness",
}

__all__ = ["VERSION", "AttentionConformance", "ModelConformance", "ModelHarness", "PagedPool", "PagedRow"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
