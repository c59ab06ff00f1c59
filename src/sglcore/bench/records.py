"""Results as JSON lines, and as a table on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sglcore.errors import ConfigError

WIDTH = 50


def append_line(path: str, record: Mapping[str, Any]) -> None:
    """Append one line of JSON. Raises ConfigError where the file cannot be written."""
    try:
        with Path(path).open("ab") as out:
            out.write(msgspec.json.encode(plain(record)) + b"\n")
    except OSError as error:
        raise ConfigError(f"--output-file {path} cannot be written: {error.strerror}.") from None


def plain(value: Any) -> Any:
    """`value` as JSON can say it: an infinite number is the text "inf", one that is none is null."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def object_of(text: str, flag: str) -> dict[str, Any]:
    """A flag's JSON object. Raises ConfigError."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{flag} takes a JSON object: {error}.") from None


def table(title: str, sections: Iterable[tuple[str, Iterable[tuple[str, Any]]]]) -> str:
    """Sections of label and value under a title; a section's name is a rule of dashes around it."""
    lines = [f" {title} ".center(WIDTH, "=")]
    for name, rows in sections:
        if name:
            lines.append(name.center(WIDTH, "-"))
        lines += [f"{label + ':':<40} {shown(value):<9}".rstrip() for label, value in rows]
    return "\n".join([*lines, "=" * WIDTH])


def shown(value: Any) -> str:
    """Numbers with two decimals, what is not known as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if math.isfinite(value) else str(value)
    return str(value)
