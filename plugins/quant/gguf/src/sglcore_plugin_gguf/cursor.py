"""A bounds-checked walk over the header bytes of a GGUF file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sglcore.errors import ConfigError

Buffer = memoryview
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

# GGUF value type -> numpy dtype, little endian; 7 is bool, 8 string, 9 array.
SCALARS: dict[int, str] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
BOOL, STRING, ARRAY = 7, 8, 9
MAX_NAME_BYTES = 65535


def broken(path: Path, problem: str) -> ConfigError:
    """ConfigError about a damaged file."""
    return ConfigError(
        f"GGUF file {path}: {problem}.", remedy="The file is truncated or damaged: download or copy it again."
    )


class Cursor:
    """Reads values at `at`, and raises ConfigError where one would reach past the end of the file."""

    def __init__(self, path: Path, data: Buffer, at: int = 0) -> None:
        self.path, self.data, self.at, self.end = path, data, at, len(data)

    def take(self, size: int, what: str) -> int:
        """Advance by `size` bytes and return where they start."""
        start = self.at
        if size > self.end - start:
            raise broken(self.path, f"{what} at byte {start} needs {size} bytes, but the file ends at byte {self.end}")
        self.at = start + size
        return start

    def u32(self, what: str) -> int:
        """Unsigned 32-bit integer."""
        return int(_U32.unpack_from(self.data, self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """Unsigned 64-bit integer."""
        return int(_U64.unpack_from(self.data, self.take(8, what))[0])

    def count(self, what: str, least_bytes: int) -> int:
        """A number of items that take `least_bytes` each at the very least, so it is bounded by the bytes left."""
        number = self.u64(what)
        if number * least_bytes > self.end - self.at:
            raise broken(self.path, f"{what} says {number}, more than the {self.end - self.at} bytes left can hold")
        return number

    def string(self, what: str, limit: int | None = None) -> str:
        """UTF-8 text with its length in front."""
        length = self.count(f"the length of {what}", 1)
        if limit is not None and length > limit:
            raise broken(self.path, f"{what} is {length} bytes long, more than {limit}")
        start = self.take(length, what)
        return self._text(start, self.at, what)

    def value(self, kind: int, what: str) -> Any:
        """A metadata value: bool, int, float, str, list[str] or a numpy array of numbers."""
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            return self._array(what)
        dtype = self._dtype(kind, what)
        number = np.frombuffer(self.data, dtype, 1, self.take(dtype.itemsize, what))[0].item()
        return bool(number) if kind == BOOL else number

    def _array(self, what: str) -> Any:
        kind = self.u32(f"the element type of {what}")
        if kind == STRING:
            return self._strings(self.count(f"the length of {what}", 8), what)
        dtype = self._dtype(kind, what)
        number = self.count(f"the length of {what}", dtype.itemsize)
        values = np.frombuffer(self.data, dtype, number, self.take(number * dtype.itemsize, what)).copy()
        return values.astype(np.bool_) if kind == BOOL else values

    def _strings(self, number: int, what: str) -> list[str]:
        data, end, at = self.data, self.end, self.at
        length_at: Callable[[Buffer, int], tuple[Any, ...]] = _U64.unpack_from
        texts: list[str] = []
        for index in range(number):
            if at + 8 > end:
                raise broken(self.path, f"{what} holds {number} texts, but the file ends in number {index}")
            start = at + 8
            at = start + length_at(data, at)[0]
            if at > end:
                raise broken(self.path, f"text {index} of {what} reaches to byte {at}, past the end at byte {end}")
            texts.append(self._text(start, at, what))
        self.at = at
        return texts

    def _text(self, start: int, stop: int, what: str) -> str:
        try:
            return str(self.data[start:stop], "utf-8")
        except UnicodeDecodeError:
            raise broken(self.path, f"{what} at byte {start} is not UTF-8 text") from None

    def _dtype(self, kind: int, what: str) -> np.dtype[Any]:
        if kind not in SCALARS:
            raise broken(self.path, f"{what} has the unknown value type {kind}")
        return np.dtype(SCALARS[kind])
