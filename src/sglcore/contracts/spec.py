"""Spec: what an entry point points at. A few declared facts and the address of the code."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of every family's Spec; lives in a module that imports no torch.

    name: the registered name; equals the entry point's name.
    factory: `package.module:attribute` of the class or function that does the work. Imported only
        when this Spec is chosen, in the process that needs it.
    summary: one line for `sglcore plugins list`.
    replaces: registered names this one stands in for when both could serve.
    probe: `package.module:function`, returning None or in a few words why the code cannot run on this machine,
        with the remedy. Called while choosing; imports no torch, starts nothing.
    """

    name: str
    factory: str
    summary: str = ""
    replaces: tuple[str, ...] = ()
    probe: str = ""

    def load(self) -> Any:
        """Import the factory's module and return the attribute; ImportError and AttributeError pass through."""
        return _load(self.factory)

    def problem(self) -> str | None:
        """What the probe says; None where there is no probe or nothing in the way."""
        return _load(self.probe)() if self.probe else None


def _load(address: str) -> Any:
    module, _, attribute = address.partition(":")
    return getattr(importlib.import_module(module), attribute)
