"""Spec: what an entry point points at, a few declared facts and the address of the code; and how contracts grow."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


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
        return load_address(self.factory)

    def problem(self) -> str | None:
        """What the probe says; None where there is no probe or nothing in the way."""
        return load_address(self.probe)() if self.probe else None


def load_address(address: str) -> Any:
    """What `package.module:attribute` names; ImportError and AttributeError pass through."""
    module, _, attribute = address.partition(":")
    return getattr(importlib.import_module(module), attribute)


def optional(method: F) -> F:
    """Marks a Protocol's method that an implementation may leave out; the body it decorates is then what happens.

    A method that is added within an API version is always one of these.
    """
    method.__optional__ = True  # type: ignore[attr-defined]
    return method


def is_optional(method: object) -> bool:
    """Whether `optional` marks it."""
    return getattr(method, "__optional__", False) is True


def method_of(implementation: Any, protocol: type, name: str) -> Callable[..., Any]:
    """The implementation's method `name`, or the Protocol's own body where it has none.

    How the core calls optional methods: looked up once, when the implementation is built, and not on the way.
    """
    own = getattr(implementation, name, None)
    if own is None and is_optional(vars(protocol).get(name)):
        own = vars(protocol)[name].__get__(implementation)
    if own is None:
        raise AttributeError(f"{type(implementation).__name__} has no `{name}`, which {protocol.__name__} promises")
    found: Callable[..., Any] = own
    return found
