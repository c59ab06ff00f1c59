"""Option: one flag that a plugin contributes to the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """`--name` with a plain type (str, int, float or bool), a default and one line of help."""

    name: str
    type: type[str] | type[int] | type[float] | type[bool]
    default: Any
    help: str
