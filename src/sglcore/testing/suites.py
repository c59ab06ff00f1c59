"""From a Spec alone to a pytest class: for `sglcore plugins verify`, and for plugins that need no more."""

from __future__ import annotations

import importlib
from typing import Any

from sglcore.contracts.families import FAMILIES
from sglcore.contracts.policies import EvictionSpec

# family -> module and class of the kit whose checks need no more than the Spec; others need shapes or files.
HOMES = {
    "attention": ("attention", "AttentionConformance"),
    "grammars": ("grammars", "GrammarConformance"),
    "logits_processors": ("logits_processors", "LogitsProcessorConformance"),
    "ops": ("ops", "OpsConformance"),
    "platforms": ("platforms", "PlatformConformance"),
    "policies": ("policies", "PolicyConformance"),
    "quant": ("quant", "QuantConformance"),
    "reasoning_parsers": ("parsers", "ParserConformance"),
    "routes": ("routes", "RouteConformance"),
    "tool_parsers": ("parsers", "ParserConformance"),
    "weight_formats": ("formats", "WeightFormatConformance"),
    "weight_sources": ("sources", "WeightSourceConformance"),
}


def suite(family: str, spec: Any) -> type | None:
    """A class to put into a test module under a name that begins with Test; None for an unknown family.

    For `hooks`, `spec` is the module. Families without a class of their own get the checks that every Spec must pass;
    so does `models`, whose own class needs configurations.
    """
    if family not in FAMILIES:
        return None
    if family == "hooks":
        from sglcore.testing.init import init_suite

        return init_suite((("hooks", spec.__name__, spec.__name__),))
    module, name = HOMES.get(family, ("specs", "SpecConformance"))
    if isinstance(spec, EvictionSpec):
        module, name = "evictions", "EvictionConformance"
    base = getattr(importlib.import_module(f"sglcore.testing.{module}"), name)
    return type(f"Test{''.join(word.title() for word in family.split('_'))}", (base,), {"spec": spec, "family": family})
