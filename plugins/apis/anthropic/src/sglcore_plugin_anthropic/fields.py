"""Reading a body: the kinds of its members, told with their place where they are wrong."""

from __future__ import annotations

from typing import Any

from sglcore.errors import RequestError


def wrong(where: str, what: str) -> RequestError:
    """The refusal of a member that is not what it must be."""
    return RequestError(f"`{where}` must be {what}.", param=where)


def unsupported(where: str, what: str, family: str) -> RequestError:
    """The refusal of what no installed plugin provides, naming the family that would."""
    return RequestError(
        f"`{where}` {what}, which no installed plugin provides.",
        param=where,
        code="unsupported_parameter",
        remedy=f"Leave it out, or see plugin family `{family}`.",
    )


def text(value: Any, where: str) -> str:
    """A text. Raises RequestError."""
    if not isinstance(value, str):
        raise wrong(where, "a text")
    return value


def record(value: Any, where: str) -> dict[str, Any]:
    """An object, its nulls dropped. Raises RequestError."""
    if not isinstance(value, dict):
        raise wrong(where, "an object")
    return {name: member for name, member in value.items() if member is not None}


def records(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects. Raises RequestError naming the first that is none."""
    if not isinstance(value, list):
        raise wrong(where, "a list")
    return [record(member, f"{where}[{i}]") for i, member in enumerate(value)]


def flag(value: Any, where: str) -> bool:
    """True or false. Raises RequestError."""
    if not isinstance(value, bool):
        raise wrong(where, "true or false")
    return value
