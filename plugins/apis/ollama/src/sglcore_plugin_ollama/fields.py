"""Reading a body: the kinds of its members, told with their place where they are wrong."""

from __future__ import annotations

from typing import Any

from sglcore.errors import RequestError


def wrong(where: str, what: str) -> RequestError:
    """The refusal of a member that is not what it must be."""
    return RequestError(f"`{where}` must be {what}.", param=where)


def unsupported(where: str, remedy: str) -> RequestError:
    """The refusal of what this server does not have."""
    return RequestError(
        f"`{where}` asks for what this server does not have.", param=where, code="unsupported_parameter", remedy=remedy
    )


def text(fields: dict[str, Any], name: str, prefix: str = "") -> str:
    """A member that is a text, "" where it is not there. Raises RequestError."""
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise wrong(prefix + name, "a text")
    return value


def flag(fields: dict[str, Any], name: str, default: bool) -> bool:
    """A member that is true or false. Raises RequestError."""
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise wrong(name, "true or false")
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
