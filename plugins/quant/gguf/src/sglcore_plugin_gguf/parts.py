"""Models split over numbered files: name-00001-of-00003.gguf and so on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from sglcore.errors import ConfigError
from sglcore_plugin_gguf.cursor import broken
from sglcore_plugin_gguf.reader import Header, read_header

_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def find_file(path: Path) -> Path:
    """The file to open: `path` itself, or the only GGUF model in a directory.

    Raises ConfigError where a directory holds none or several.
    """
    if not path.is_dir():
        return path
    models = sorted(file for file in path.glob("*.gguf") if _number(file) == 1)
    if len(models) == 1:
        return models[0]
    names = ", ".join(file.name for file in models[:8])
    raise ConfigError(
        f"Directory {path} holds {len(models)} GGUF models{': ' + names if names else ''}.",
        remedy="Give the path of one .gguf file.",
    )


def read_parts(path: Path) -> list[Header]:
    """Headers of all files of a model, the one with the metadata first."""
    first = read_header(path)
    count = first.metadata.get("split.count", 1)
    if count in (0, 1):
        return [first]
    match = _NUMBERED.fullmatch(path.name)
    if match is None or type(count) is not int or count != int(match[3]):
        raise broken(path, f"it is one of {count} parts, but its name does not end in -00001-of-0000N.gguf")
    if int(match[2]) != 1:
        raise ConfigError(
            f"GGUF file {path} is part {int(match[2])} of {count}.",
            remedy="Give the path of part 1; the rest is found.",
        )
    others = [read_header(path.with_name(f"{match[1]}-{n:05}-of-{match[3]}.gguf")) for n in range(2, count + 1)]
    return [first, *others]


def merged(headers: list[Header]) -> Header:
    """One header with the tensors of all parts, for checks; tensor data stays with its own part."""
    tensors = tuple(entry for header in headers for entry in header.tensors)
    if len({entry.name for entry in tensors}) != len(tensors):
        raise broken(headers[0].path, "a tensor occurs in two parts")
    return replace(headers[0], tensors=tensors)


def _number(path: Path) -> int:
    match = _NUMBERED.fullmatch(path.name)
    return int(match[2]) if match else 1
