"""What InitConformance runs in a spawned process; light, since the child imports it."""

from __future__ import annotations

import importlib
import json
import sys
from multiprocessing.connection import Connection
from typing import Any


def fingerprint(value: str) -> str:
    """What `module:attribute` leads to, in words that are the same in every process: a module's name, a Spec's repr."""
    module, _, attribute = value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except Exception as error:  # the parent says it
        return f"{type(error).__name__}: {error}"
    return repr(found) if attribute else f"module {found.__name__}"


def tell(values: list[str], path: list[str], pipe: Connection) -> None:
    """Send the fingerprints as JSON."""
    sys.path[:] = path
    pipe.send_bytes(json.dumps([fingerprint(value) for value in values]).encode())
    pipe.close()
