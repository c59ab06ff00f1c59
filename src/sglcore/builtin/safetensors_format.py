"""A Hugging Face model directory: config.json, *.safetensors in one or more shards, tokenizer files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglcore.builtin.safetensors_header import SafetensorsHeader, damaged, read_header
from sglcore.builtin.text_files import read_json, read_text_assets
from sglcore.contracts.weights import TextAssets
from sglcore.errors import ConfigError

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class SafetensorsFormat:
    """See sglcore.contracts.weights.WeightFormat. A file stands for the directory it lies in."""

    def detects(self, path: Path) -> bool:
        """A directory with config.json, or a .safetensors file in one."""
        if path.is_dir():
            return (path / CONFIG).is_file()
        return path.suffix == ".safetensors"

    def open(self, path: Path) -> SafetensorsCheckpoint:
        """Validate all headers. Raises ConfigError naming the file and what is wrong with it."""
        return SafetensorsCheckpoint(path)


class SafetensorsCheckpoint:
    """See sglcore.contracts.weights.Checkpoint. Tensors are views of the mapped files, in their own dtype."""

    def __init__(self, path: Path) -> None:
        self._directory = path if path.is_dir() else path.parent
        self.config: dict[str, Any] = _model_config(self._directory / CONFIG)
        generation = self._directory / "generation_config.json"
        self.generation_config: dict[str, Any] = read_json(generation) if generation.is_file() else {}
        self._headers = [read_header(path)] if path.is_file() else _shards(self._directory)

    def text_assets(self) -> TextAssets:
        """Tokenizer files and chat template of the directory; imports no torch."""
        return read_text_assets(self._directory)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, CPU tensor) shard by shard. Pages are read from disk when the consumer copies them.

        Raises ConfigError if there are none: a directory without weights can be opened (for dummy ones), not read.
        """
        if not self._headers:
            raise ConfigError(
                f"Model directory {self._directory} has no .safetensors files.",
                remedy="Give a complete model directory; pickled weights (.bin, .pt) are never loaded.",
            )
        from safetensors import SafetensorError, safe_open  # here: the torch side of it imports torch

        for header in self._headers:
            try:
                with safe_open(str(header.path), framework="pt", device="cpu") as file:
                    for name in header.names:
                        yield name, file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise damaged(header.path, f"it cannot be mapped: {error}") from None


def _model_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"Model directory {path.parent} has no {CONFIG}.", remedy="Give a complete Hugging Face model directory."
        )
    config = read_json(path)
    names = config.get("architectures")
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ConfigError(
            f"{path} names no architecture: `architectures` is {names!r}.",
            remedy='Add the model class to it, e.g. "architectures": ["LlamaForCausalLM"].',
        )
    return config


def _shards(directory: Path) -> list[SafetensorsHeader]:
    """Headers of all shards. An index decides which files belong; without one, model.safetensors or all files do."""
    index = directory / INDEX
    if index.is_file():
        return _indexed(directory, index)
    single = directory / SINGLE
    paths = [single] if single.is_file() else sorted(directory.glob("*.safetensors"))
    headers = [read_header(path) for path in paths]
    seen: dict[str, Path] = {}
    for header in headers:
        for name in header.names:
            other = seen.setdefault(name, header.path)
            if other != header.path:
                raise ConfigError(
                    f"Tensor {name!r} is in both {other.name} and {header.path.name} of {directory}.",
                    remedy="Remove the files that do not belong to the model.",
                )
    return headers


def _indexed(directory: Path, index: Path) -> list[SafetensorsHeader]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise damaged(index, "it has no weight_map")
    files: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise damaged(index, f"tensor {name!r} is said to be in {file!r}, which is no file name")
        files.setdefault(file, set()).add(name)
    absent = sorted(file for file in files if not (directory / file).is_file())
    if absent:
        raise ConfigError(
            f"{len(absent)} of {len(files)} shards that {index} names are missing, the first is {absent[0]!r}.",
            remedy="Download the missing files.",
        )
    return [_shard(read_header(directory / file), wanted) for file, wanted in sorted(files.items())]


def _shard(header: SafetensorsHeader, wanted: set[str]) -> SafetensorsHeader:
    """The header narrowed to what the index looks for in it."""
    missing = sorted(wanted.difference(header.names))
    if missing:
        raise damaged(header.path, f"the index puts tensor {missing[0]!r} ({len(missing)} in all) there, but it is not")
    return SafetensorsHeader(header.path, tuple(name for name in header.names if name in wanted))
