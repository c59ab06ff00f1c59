"""WeightFormatConformance: a tiny checkpoint comes back as it was written, and a damaged one is refused by name."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from sglcore.contracts.weights import TextAssets, WeightFormat, WeightFormatSpec
from sglcore.errors import ConfigError
from sglcore.testing.processes import run_python
from sglcore.testing.specs import SpecConformance

if TYPE_CHECKING:
    import torch

LIGHT = """
import importlib, json, pathlib, sys
module, _, name = sys.argv[1].partition(":")
checkpoint = getattr(importlib.import_module(module), name)().open(pathlib.Path(sys.argv[2]))
assets = checkpoint.text_assets() if sys.argv[3] == "text" else None
heavy = sorted({"torch", "transformers"} & set(sys.modules))
print(json.dumps(heavy))
"""
FLIPS = 120  # single bytes changed, one file each


class WeightFormatConformance(SpecConformance):
    """Subclass with `spec`, and override `write`; without it only what needs no file is checked.

    damaged: name endings of the files whose loss or damage must be noticed; default: the Spec's suffixes.
    text: whether `write` writes a tokenizer too. tolerance: largest error of a tensor that was written.
    """

    spec: ClassVar[WeightFormatSpec]
    family = "weight_formats"
    damaged: ClassVar[tuple[str, ...]] = ()
    text: ClassVar[bool] = False
    tolerance: ClassVar[float] = 0.0

    def make(self) -> WeightFormat:
        """A fresh format."""
        found: WeightFormat = self.spec.load()()
        return found

    def write(self, folder: Path) -> tuple[Path, dict[str, torch.Tensor]] | None:
        """Write a tiny checkpoint, its files all in `folder` -> (what to open, its tensors by Hugging Face name)."""
        return None

    def test_a_checkpoint_comes_back(self, tmp_path: Path) -> None:
        """It is detected; names, shapes and values are those written; each tensor comes once."""
        path, expected = self._written(tmp_path)
        found = self.make()
        assert found.detects(path) is True, f"it does not detect {path.name}, which it wrote"
        seen: set[str] = set()
        for name, tensor in found.open(path).tensors():
            assert name not in seen, f"tensor {name!r} comes twice"
            seen.add(name)
            assert name in expected, f"tensor {name!r} was never written"
            want = expected[name]
            assert tensor.shape == want.shape, f"{name}: shape {tuple(tensor.shape)}, not {tuple(want.shape)}"
            assert tensor.device.type == "cpu", f"{name} is on {tensor.device}, not on the CPU"
            error = float((tensor.double() - want.double()).abs().max()) if want.numel() else 0.0
            assert error <= self.tolerance, f"{name}: error {error:.2e}, allowed {self.tolerance:.2e}"
        assert seen == set(expected), f"tensors are lost: {sorted(set(expected) - seen)[:5]}"

    def test_config_and_text(self, tmp_path: Path) -> None:
        """`architectures` stands in the config, both are plain JSON, the text assets are of their type."""
        checkpoint = self.make().open(self._written(tmp_path)[0])
        names = checkpoint.config.get("architectures")
        assert isinstance(names, list) and names, f"config names no architectures: {names!r}"
        for what in (checkpoint.config, checkpoint.generation_config):
            assert isinstance(what, dict) and json.loads(json.dumps(what)) == what, "a config is not plain JSON"
        if self.text:
            assets = checkpoint.text_assets()
            assert isinstance(assets, TextAssets), f"text_assets returned a {type(assets).__name__}"
            assert assets.tokenizer_json or assets.directory, "text_assets finds no tokenizer"

    def test_opening_imports_no_torch(self, tmp_path: Path) -> None:
        """Headers and text are read in processes that have no torch."""
        path, _ = self._written(tmp_path)
        heavy = json.loads(run_python(["-c", LIGHT, self.spec.factory, str(path), "text" if self.text else ""]))
        assert not heavy, f"opening {path.name} imports {', '.join(heavy)}"

    def test_what_is_not_its_own_is_left_alone(self, tmp_path: Path) -> None:
        """Empty folders, other files, paths that do not exist: `detects` says no, and never fails."""
        other = tmp_path / "notes.txt"
        other.write_text("a text")
        (tmp_path / "empty").mkdir()
        found = self.make()
        for path in (tmp_path / "empty", other, tmp_path / "absent", tmp_path / "absent" / "deeper"):
            assert found.detects(path) is False, f"detects({path.name!r}) is not False"

    def test_what_is_not_there_is_refused(self, tmp_path: Path) -> None:
        """Opening a path that does not exist, an empty file or an empty folder is a ConfigError."""
        (tmp_path / "empty").mkdir()
        paths = [tmp_path / "empty"]
        for suffix in self.spec.suffixes:
            (tmp_path / f"empty{suffix}").touch()
            paths += [tmp_path / f"empty{suffix}", tmp_path / f"absent{suffix}"]
        for path in paths:
            assert self._read(path), f"{path.name} is opened as if it were a model"

    def test_truncated_files_are_refused(self, tmp_path: Path) -> None:
        """Cut anywhere, or gone: a ConfigError that names the file."""
        for file, path, copy in self._copies(tmp_path):
            size = file.stat().st_size
            for keep in sorted({0, 1, 7, 8, 9, 64, size // 3, size // 2, size - 64, size - 1} - {size}):
                if 0 <= keep < size:
                    copy.write_bytes(file.read_bytes()[:keep])
                    refused = self._read(path)
                    assert refused, f"{file.name} cut to {keep} of {size} bytes is accepted"
                    assert file.name in refused, f"the error does not name {file.name}: {refused}"
            copy.unlink()
            assert self._read(path), f"without {file.name} it is accepted"

    def test_damaged_files_raise_nothing_else(self, tmp_path: Path) -> None:
        """One byte changed anywhere, headers above all: read as something else, or a ConfigError; nothing else."""
        chance = random.Random(5)
        for file, path, copy in self._copies(tmp_path):
            whole = file.read_bytes()
            for turn in range(FLIPS):
                at = turn if turn < FLIPS // 3 else chance.randrange(min(len(whole), 4096))
                broken = bytearray(whole)
                broken[min(at, len(whole) - 1)] ^= chance.randrange(1, 256)
                copy.write_bytes(broken)
                self._read(path, f"{file.name} with byte {at} changed")

    def _written(self, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
        (folder / "written").mkdir(exist_ok=True)
        written = self.write(folder / "written")
        if written is None:
            pytest.skip("the suite writes no checkpoint")
        return written

    def _copies(self, folder: Path) -> Iterator[tuple[Path, Path, Path]]:
        """For each file to damage: (the whole file, what to open, the copy to spoil)."""
        path, _ = self._written(folder)
        home = folder / "written"
        endings = self.damaged or self.spec.suffixes
        files = [file for file in sorted(home.rglob("*")) if file.is_file() and file.name.endswith(endings)]
        assert files, f"write made no file that ends in {', '.join(endings)}"
        for number, file in enumerate(files):
            spoiled = folder / f"spoiled{number}"
            shutil.copytree(home, spoiled)
            yield file, spoiled / path.relative_to(home), spoiled / file.relative_to(home)

    def _read(self, path: Path, what: str = "") -> str:
        """Open and read all -> the ConfigError's text, "" if there was none. Anything else is a failure."""
        try:
            for _, tensor in self.make().open(path).tensors():
                tensor.clone()
        except ConfigError as error:
            return str(error) or type(error).__name__
        except Exception as error:
            shown = f"{type(error).__name__}: {str(error)[:200]}"
            raise AssertionError(f"{what or path.name} raises {shown}; it must be a ConfigError") from error
        return ""
