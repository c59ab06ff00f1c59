"""The header of a GGUF file: metadata and tensor table, every number checked against the file's length.

Layout: "GGUF File Format" in the ggml repository, docs/gguf.md; versions 2 and 3, little endian.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sglcore.errors import ConfigError
from sglcore_plugin_gguf.cursor import MAX_NAME_BYTES, Cursor, broken
from sglcore_plugin_gguf.ggml_types import GGML_TYPES, OTHER_TYPE_NAMES, GgmlType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ALIGNMENT = 1 << 20
_LEAST_KV_BYTES = 8 + 4 + 1  # key length, value type, one byte of value
_LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # name length, dimension count, one dimension, type, offset


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's place. shape: rows first (GGUF stores the fastest dimension first). start: byte in the file."""

    name: str
    shape: tuple[int, ...]
    kind: GgmlType
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """metadata: key -> bool, int, float, str, list[str] or numpy array. data: the mapped file."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[TensorEntry, ...]
    data: memoryview

    def tensor(self, name: str) -> TensorEntry | None:
        """The tensor of that GGUF name, if the file has it."""
        return next((entry for entry in self.tensors if entry.name == name), None)


def read_header(path: Path) -> Header:
    """Map a file and read its header; no tensor data is touched.

    Raises ConfigError naming the file and the numbers when it is truncated, damaged or of an unknown kind.
    """
    data = _map(path)
    cursor = Cursor(path, data)
    tensor_count, kv_count = _preamble(cursor)
    metadata = _metadata(cursor, kv_count)
    raw = [_raw_entry(cursor) for _ in range(tensor_count)]
    alignment = _alignment(path, metadata)
    base = -(-cursor.at // alignment) * alignment
    tensors = tuple(_place(path, entry, base, alignment, len(data)) for entry in raw)
    _check_disjoint(path, tensors)
    return Header(path, metadata, tensors, data)


def _map(path: Path) -> memoryview:
    try:
        size = path.stat().st_size
        if size < 24:  # magic, version, two counts
            raise broken(path, f"it is {size} bytes long, shorter than any GGUF header (24 bytes)")
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"GGUF file {path} cannot be read: {reason}.", remedy="Check the path and its permissions."
        ) from None


def _preamble(cursor: Cursor) -> tuple[int, int]:
    """(tensor count, metadata count)."""
    start = cursor.take(4, "the magic")
    magic = bytes(cursor.data[start : start + 4])
    if magic != MAGIC:
        raise ConfigError(
            f"{cursor.path} is not a GGUF file: it starts with {magic!r} instead of {MAGIC!r}.",
            remedy="Give the path of a .gguf file.",
        )
    version = cursor.u32("the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = f"big-endian (version {swapped})" if swapped in VERSIONS else f"of GGUF version {version}"
        raise ConfigError(
            f"GGUF file {cursor.path} is {what}; versions 2 and 3, little endian, can be read.",
            remedy="Convert the model again with a current converter.",
        )
    return cursor.count("the tensor count", _LEAST_TENSOR_BYTES), cursor.count("the metadata count", _LEAST_KV_BYTES)


def _metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        key = cursor.string(f"metadata key {index}", MAX_NAME_BYTES)
        if key in metadata:
            raise broken(cursor.path, f"metadata key {key!r} occurs twice")
        metadata[key] = cursor.value(cursor.u32(f"the type of {key!r}"), repr(key))
    return metadata


@dataclass(frozen=True)
class _RawEntry:
    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int


def _raw_entry(cursor: Cursor) -> _RawEntry:
    name = cursor.string("a tensor name", MAX_NAME_BYTES)
    rank = cursor.u32(f"the dimension count of {name!r}")
    if not 1 <= rank <= 4:
        raise broken(cursor.path, f"tensor {name!r} has {rank} dimensions; 1 to 4 are possible")
    dims = tuple(cursor.u64(f"a dimension of {name!r}") for _ in range(rank))
    return _RawEntry(name, dims, cursor.u32(f"the type of {name!r}"), cursor.u64(f"the offset of {name!r}"))


def _alignment(path: Path, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise broken(path, f"general.alignment is {alignment!r}, not a power of two up to {MAX_ALIGNMENT}")
    return alignment


def _place(path: Path, raw: _RawEntry, base: int, alignment: int, end: int) -> TensorEntry:
    kind = GGML_TYPES.get(raw.kind)
    if kind is None:
        name = OTHER_TYPE_NAMES.get(raw.kind, "unknown")
        raise ConfigError(
            f"GGUF file {path}: tensor {raw.name!r} has type {raw.kind} ({name}), which cannot be read.",
            remedy=f"Use a file with one of {', '.join(sorted(t.name for t in GGML_TYPES.values()))}.",
        )
    elements = 1
    for dim in raw.dims:
        elements *= dim
    if elements == 0 or raw.dims[0] % kind.block:
        raise broken(path, f"tensor {raw.name!r} has shape {raw.dims}, impossible for {kind.name} (block {kind.block})")
    size = elements // kind.block * kind.size
    if raw.offset % alignment or base + raw.offset + size > end:
        raise broken(
            path,
            f"tensor {raw.name!r} ({kind.name}, {size} bytes at offset {raw.offset}) ends at byte "
            f"{base + raw.offset + size} with alignment {alignment}, but the file has {end} bytes",
        )
    return TensorEntry(raw.name, raw.dims[::-1], kind, base + raw.offset, size)


def _check_disjoint(path: Path, tensors: tuple[TensorEntry, ...]) -> None:
    if len({entry.name for entry in tensors}) != len(tensors):
        raise broken(path, "a tensor name occurs twice")
    ordered = sorted(tensors, key=lambda entry: entry.start)
    for left, right in pairwise(ordered):
        if left.start + left.size > right.start:
            raise broken(path, f"tensors {left.name!r} and {right.name!r} share bytes from {right.start}")
