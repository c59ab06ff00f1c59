"""The conformance kit: pytest base classes that a plugin's tests subclass. Public and versioned.

    from sglcore.testing import ModelConformance

    class TestMine(ModelConformance):
        spec = SPEC
        model_type = "mine"
        configs = {"tiny": {"hidden_size": 64, ...}}

Importing this package imports no torch; taking a name out of it may.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglcore.testing.attention import AttentionConformance
    from sglcore.testing.evictions import EvictionConformance
    from sglcore.testing.formats import WeightFormatConformance
    from sglcore.testing.grammars import GrammarConformance
    from sglcore.testing.harness import ModelHarness, PagedPool, PagedRow
    from sglcore.testing.init import InitConformance, init_suite
    from sglcore.testing.logits_processors import LogitsProcessorConformance
    from sglcore.testing.models import ModelConformance
    from sglcore.testing.ops import OpsConformance
    from sglcore.testing.parsers import ParserConformance, ReasoningParserConformance, ToolParserConformance
    from sglcore.testing.platforms import PlatformConformance
    from sglcore.testing.policies import PolicyConformance
    from sglcore.testing.quant import QuantConformance
    from sglcore.testing.routes import RouteConformance
    from sglcore.testing.sources import WeightSourceConformance
    from sglcore.testing.specs import SpecConformance
    from sglcore.testing.stand_ins import StandInChat, StandInEngine, stand_in_context
    from sglcore.testing.suites import suite

VERSION = 2

_HOMES = {
    "AttentionConformance": "attention",
    "EvictionConformance": "evictions",
    "GrammarConformance": "grammars",
    "InitConformance": "init",
    "LogitsProcessorConformance": "logits_processors",
    "ModelConformance": "models",
    "ModelHarness": "harness",
    "OpsConformance": "ops",
    "PagedPool": "harness",
    "PagedRow": "harness",
    "ParserConformance": "parsers",
    "PlatformConformance": "platforms",
    "PolicyConformance": "policies",
    "QuantConformance": "quant",
    "ReasoningParserConformance": "parsers",
    "RouteConformance": "routes",
    "SpecConformance": "specs",
    "StandInChat": "stand_ins",
    "StandInEngine": "stand_ins",
    "ToolParserConformance": "parsers",
    "WeightFormatConformance": "formats",
    "WeightSourceConformance": "sources",
    "init_suite": "init",
    "stand_in_context": "stand_ins",
    "suite": "suites",
}

__all__ = [
    "VERSION",
    "AttentionConformance",
    "EvictionConformance",
    "GrammarConformance",
    "InitConformance",
    "LogitsProcessorConformance",
    "ModelConformance",
    "ModelHarness",
    "OpsConformance",
    "PagedPool",
    "PagedRow",
    "ParserConformance",
    "PlatformConformance",
    "PolicyConformance",
    "QuantConformance",
    "ReasoningParserConformance",
    "RouteConformance",
    "SpecConformance",
    "StandInChat",
    "StandInEngine",
    "ToolParserConformance",
    "WeightFormatConformance",
    "WeightSourceConformance",
    "init_suite",
    "stand_in_context",
    "suite",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
