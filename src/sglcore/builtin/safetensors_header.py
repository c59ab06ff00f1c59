"""The header of a safetensors file, checked against the file's length without reading any weight.

Format: 8 bytes little-endian header length, JSON {name: {dtype, shape, data_offsets}}, then the data
(safetensors documentation, "Format").
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from sglcore.errors import ConfigError

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


@dataclass(frozen=True)
class SafetensorsHeader:
    """names: tensors of the file in data order."""

    path: Path
    names: tuple[str, ...]


def damaged(path: Path, problem: str) -> ConfigError:
    """ConfigError about a file that does not hold what it says."""
    return ConfigError(
        f"File {path}: {problem}.", remedy="The file is truncated or damaged: download or copy it again."
    )


def read_header(path: Path) -> SafetensorsHeader:
    """Read and validate. Raises ConfigError naming the file and the numbers."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise damaged(path, f"its header should take {length} bytes after the first 8, but it has {size} bytes")
            text = file.read(length)
    except OSError as error:
        raise ConfigError(
            f"File {path} cannot be read: {error.strerror or error}.", remedy="Check the path and its permissions."
        ) from None
    entries = _entries(path, text)
    _check_layout(path, entries, size - 8 - length)
    return SafetensorsHeader(path, tuple(name for name, _, _ in entries))


def _entries(path: Path, text: bytes) -> list[tuple[str, int, int]]:
    """(name, begin, end) of all tensors, by position."""
    try:
        header: Any = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise damaged(path, f"its header of {len(text)} bytes is not a JSON object")
    header.pop("__metadata__", None)
    entries = [(name, *_extent(path, name, entry)) for name, entry in header.items()]
    return sorted(entries, key=lambda entry: entry[1:])


def _extent(path: Path, name: str, entry: Any) -> tuple[int, int]:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not _integers(shape) or not _integers(offsets) or len(offsets) != 2:
        raise damaged(path, f"tensor {name!r} has shape {shape!r} and data_offsets {offsets!r}")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ConfigError(
            f"File {path}: tensor {name!r} has dtype {dtype!r}, which cannot be read.",
            remedy=f"Known are {', '.join(DTYPE_BYTES)}.",
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise damaged(path, f"tensor {name!r} ({dtype} {shape}) cannot lie at data bytes {begin} to {end}")
    return begin, end


def _integers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_layout(path: Path, entries: list[tuple[str, int, int]], size: int) -> None:
    """Tensors fill the data without a gap or an overlap."""
    at = 0
    for name, begin, end in entries:
        if begin != at:
            raise damaged(path, f"tensor {name!r} starts at data byte {begin}, but the one before it ends at {at}")
        if end > size:
            raise damaged(path, f"tensor {name!r} ends at data byte {end}, but the file has only {size} data bytes")
        at = end
    if at != size:
        raise damaged(path, f"its tensors take {at} data bytes, but it has {size}")
