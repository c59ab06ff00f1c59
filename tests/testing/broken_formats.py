"""Formats that each break one promise; what is not changed is the safetensors directory's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglcore.builtin.safetensors_format import SafetensorsFormat
from sglcore.errors import ConfigError


class Changed:
    """A checkpoint with something about it changed."""

    def __init__(self, checkpoint: Any, change: Any, **fields: Any) -> None:
        self.checkpoint, self.change, self.fields = checkpoint, change, fields

    def __getattr__(self, name: str) -> Any:
        return self.fields[name] if name in self.fields else getattr(self.checkpoint, name)

    def tensors(self) -> Any:
        return self.change(self.checkpoint.tensors())


class Format(SafetensorsFormat):
    def open(self, path: Path) -> Any:
        return Changed(super().open(path), self.change)

    def change(self, tensors: Any) -> Any:
        return tensors


class LosesATensor(Format):
    def change(self, tensors: Any) -> Any:
        return list(tensors)[1:]


class GivesTwice(Format):
    def change(self, tensors: Any) -> Any:
        return [pair for pair in tensors for _ in range(2)]


class Invents(Format):
    def change(self, tensors: Any) -> Any:
        return [(name + ".more", tensor) for name, tensor in tensors]


class Rounds(Format):
    def change(self, tensors: Any) -> Any:
        return ((name, tensor.bfloat16()) for name, tensor in tensors)


class Turns(Format):
    def change(self, tensors: Any) -> Any:
        return ((name, tensor.t()) for name, tensor in tensors)


class NamesNoArchitecture(SafetensorsFormat):
    def open(self, path: Path) -> Any:
        return Changed(super().open(path), iter, config={})


class ImportsTorch(SafetensorsFormat):
    def open(self, path: Path) -> Any:
        import torch

        assert torch
        return super().open(path)


class TakesEverything(SafetensorsFormat):
    def detects(self, path: Path) -> bool:
        return True


class Empty:
    config = {"architectures": ["X"]}
    generation_config: dict[str, Any] = {}

    def tensors(self) -> Any:
        return iter(())


class AcceptsAnything(SafetensorsFormat):
    def open(self, path: Path) -> Any:
        try:
            return super().open(path)
        except ConfigError:
            return Empty()


class NamesNoFile(SafetensorsFormat):
    def open(self, path: Path) -> Any:
        try:
            return super().open(path)
        except ConfigError:
            raise ConfigError("Damaged.") from None


class TrustsTheHeader(SafetensorsFormat):
    """Reads the header by itself, without asking whether it is one."""

    def open(self, path: Path) -> Any:
        for file in sorted(path.glob("*.safetensors")):
            data = file.read_bytes()
            json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return super().open(path)
