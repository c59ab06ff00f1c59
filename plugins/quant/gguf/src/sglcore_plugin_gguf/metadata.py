"""Typed access to a GGUF file's metadata; a missing or impossible value is a ConfigError naming the key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from sglcore.errors import ConfigError
from sglcore_plugin_gguf.cursor import broken
from sglcore_plugin_gguf.reader import Header

MAX_INT = 2**31 - 1


class Metadata:
    """Looks keys up; `{arch}` in a key stands for the file's architecture."""

    def __init__(self, header: Header) -> None:
        self.path: Path = header.path
        self.values: dict[str, Any] = header.metadata
        self.arch = ""
        self.arch = self.text("general.architecture")

    def has(self, key: str) -> bool:
        """Whether the file has the key."""
        return self._full(key) in self.values

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        return value if isinstance(value, str) else self._wrong(key, value, "text")

    def flag(self, key: str, default: bool) -> bool:
        """A bool."""
        value = self._get(key, default)
        return value if isinstance(value, bool) else self._wrong(key, value, "true or false")

    def number(self, key: str, default: float | None = None) -> float:
        """A finite positive number."""
        value = self._get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
            return float(value)
        return self._wrong(key, value, "a positive number")

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer. An array with one value per layer is taken where all values are equal."""
        value = self._get(key, default)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu" and (value == value[0]).all():
            value = value[0].item()
        if type(value) is int and 0 < value <= MAX_INT:
            return value
        return self._wrong(key, value, f"an integer from 1 to {MAX_INT}")

    def token_id(self, key: str) -> int | None:
        """A token's id, checked against the vocabulary's size; None where absent."""
        if not self.has(key):
            return None
        value, size = self._get(key, None), len(self.texts("tokenizer.ggml.tokens"))
        if type(value) is int and 0 <= value < size:
            return value
        return self._wrong(key, value, f"a token id below {size}")

    def texts(self, key: str) -> list[str]:
        """A list of strings; empty where absent."""
        value = self._get(key, [])
        return value if isinstance(value, list) else self._wrong(key, value, "a list of texts")

    def array(self, key: str, length: int) -> np.ndarray[Any, np.dtype[Any]] | None:
        """An array of numbers of that length; None where absent."""
        if not self.has(key):
            return None
        value = self._get(key, None)
        if isinstance(value, np.ndarray) and len(value) == length:
            return value
        return self._wrong(key, value, f"{length} numbers")

    def _full(self, key: str) -> str:
        return key.replace("{arch}", self.arch)

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(self._full(key), default)
        if value is None:
            raise ConfigError(
                f"GGUF file {self.path} has no metadata key {self._full(key)!r}.",
                remedy="Convert the model again with a current converter.",
            )
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> Any:
        raise broken(self.path, f"metadata key {self._full(key)!r} is {_brief(value)}, not {wanted}")


def _brief(value: Any) -> str:
    if isinstance(value, list | np.ndarray):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
