"""Plugins that are not installed: their Specs and factories live in a module made for the test."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import ModelSpec
from sglcore.contracts.platforms import PlatformSpec
from sglcore.contracts.spec import Spec
from sglcore.plugins import Plugins
from sglcore.registry import Entry

KINDS = {"AttentionSpec": "attention", "ModelSpec": "models", "PlatformSpec": "platforms", "OpsSpec": "ops"}
KINDS |= {"QuantSpec": "quant"}


def made_up(monkeypatch: pytest.MonkeyPatch, *specs: Spec, also: Plugins | None = None, **code: Any) -> Plugins:
    """Plugins of these specs, each from a distribution dist-<name>, on top of `also`; `code` is the module's."""
    module = types.ModuleType("made_up")
    entries = list(also.entries) if also else []
    for i, spec in enumerate(specs):
        setattr(module, f"SPEC{i}", spec)
        family = KINDS[type(spec).__name__]
        entries.append(Entry(family, spec.name, f"made_up:SPEC{i}", f"dist-{spec.name}", "1", 1))
    for name, value in code.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "made_up", module)
    return Plugins(entries)


def attention(name: str, **declared: Any) -> AttentionSpec:
    return AttentionSpec(name=name, factory="made_up:factory", **declared)


def model(name: str = "XForCausalLM", **declared: Any) -> ModelSpec:
    return ModelSpec(name=name, factory="made_up:factory", **declared)


def platform(name: str = "cpu", **declared: Any) -> PlatformSpec:
    return PlatformSpec(name=name, factory="made_up:factory", **declared)


X = {"architectures": ["XForCausalLM"]}


def says_no() -> str | None:
    """A probe."""
    return "not on this machine"


def says_yes() -> str | None:
    """A probe."""
    return None
