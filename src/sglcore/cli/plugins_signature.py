"""Whether code can be called as its contract says: signatures of functions, methods of a Protocol."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from sglcore.contracts.spec import is_optional

_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_ANY = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def missing_methods(promise: type, code: type, only: tuple[str, ...] | None = None) -> list[str]:
    """What keeps class `code` from fulfilling Protocol `promise`, one sentence a method.

    `only` are the methods asked for, all by default. Attributes are not looked at: they appear on instances.
    """
    if hasattr(code, "__getattr__"):
        return []  # what it has, its instances decide
    found = ((name, _wrong(promise, code, name)) for name in (methods(promise) if only is None else only))
    return [f"{code.__name__}{'.' if problem[0] != ' ' else ''}{problem}" for name, problem in found if problem]


def _wrong(promise: type, code: type, name: str) -> str | None:
    promised, given = inspect.getattr_static(promise, name), getattr(code, name, None)
    if given is None and is_optional(promised):
        return None
    if given is None:
        annotated = any(name in vars(base).get("__annotations__", {}) for base in code.__mro__)
        return None if annotated else f" has no `{name}`, which {promise.__name__} promises"
    if isinstance(promised, property) or not inspect.isroutine(given):
        return None  # as an attribute or a property, as it likes
    if inspect.iscoroutinefunction(promised) != inspect.iscoroutinefunction(given):
        return f"{name} must{' ' if inspect.iscoroutinefunction(promised) else ' not '}be an async function"
    problem = mismatch(bound(promise, name), bound(code, name))
    return f"{name} {problem}" if problem else None


def methods(promise: type) -> list[str]:
    """Methods and properties that a Protocol asks of its implementations, its bases' included."""
    names: dict[str, None] = {}
    for base in reversed(promise.__mro__):
        if base is object or base.__module__ == "typing":
            continue
        for name, member in vars(base).items():
            if name == "__call__" or (not name.startswith("_") and (inspect.isroutine(member) or _property(member))):
                names[name] = None
    return list(names)


def bound(owner: type, name: str) -> inspect.Signature | None:
    """The signature of a method as its caller sees it, without `self`; None where Python knows none."""
    try:
        signature = inspect.signature(getattr(owner, name))
    except (TypeError, ValueError):
        return None
    if isinstance(inspect.getattr_static(owner, name), staticmethod | classmethod):
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def mismatch(promised: inspect.Signature | None, given: inspect.Signature | None) -> str | None:
    """Why a call made as `promised` fails with `given`, in words that go on from its name; None if it succeeds."""
    if promised is None or given is None:
        return None
    mine = list(given.parameters.values())
    kinds = {p.kind for p in mine}
    places = [p for p in mine if p.kind in _BY_PLACE]
    for index, wanted in enumerate(p for p in promised.parameters.values() if p.kind in _BY_PLACE):
        if index >= len(places):
            if Parameter.VAR_POSITIONAL not in kinds:
                return f"takes no `{wanted.name}`: {_shown(given)} instead of {_shown(promised)}"
        elif wanted.kind in _BY_NAME and places[index].name != wanted.name and Parameter.VAR_KEYWORD not in kinds:
            return f"takes `{places[index].name}` where the contract says `{wanted.name}`"
    return _by_name(promised, given, kinds)


def _by_name(promised: inspect.Signature, given: inspect.Signature, kinds: set[Any]) -> str | None:
    mine = given.parameters
    for wanted in (p for p in promised.parameters.values() if p.kind is Parameter.KEYWORD_ONLY):
        if (wanted.name not in mine or mine[wanted.name].kind not in _BY_NAME) and Parameter.VAR_KEYWORD not in kinds:
            return f"takes no `{wanted.name}`: {_shown(given)} instead of {_shown(promised)}"
    given_by_place = sum(p.kind in _BY_PLACE for p in promised.parameters.values())
    for index, extra in enumerate(mine.values()):
        optional = extra.default is not Parameter.empty or extra.kind in _ANY
        known = extra.name in promised.parameters or (index < given_by_place and extra.kind in _BY_PLACE)
        if not optional and not known:
            return f"asks for `{extra.name}`, which the contract does not give"
    return None


def takes(code: Callable[..., Any], names: tuple[str, ...]) -> str | None:
    """Why `code` cannot be called with these arguments in order, in words; None if it can."""
    try:
        signature = inspect.signature(code)
    except (TypeError, ValueError):
        return None  # a builtin that tells nothing
    try:
        signature.bind(*names)
    except TypeError as error:
        call = ", ".join(names)
        return f"is called as `({call})` but takes {_shown(signature)}: {error}"
    return None


def _shown(signature: inspect.Signature) -> str:
    """Names only: annotations make it unreadable."""
    bare = [p.replace(annotation=Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _property(member: object) -> bool:
    return isinstance(member, property)
