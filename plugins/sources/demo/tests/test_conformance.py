from __future__ import annotations

from pathlib import Path

import pytest
from sglcore_plugin_demo import source
from sglcore_plugin_demo.spec import SPEC

from sglcore.testing import InitConformance, WeightSourceConformance


class TestInit(InitConformance):
    distribution = "sglcore-plugin-demo"


class TestDemoSource(WeightSourceConformance):
    spec = SPEC

    def prepare(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
        """A package of that name, found first, with a sparse file of the right size."""
        package = folder / source.PACKAGE
        package.mkdir()
        (package / "__init__.py").touch()
        with (package / source.FILE).open("wb") as file:
            file.truncate(source.SIZE)
        monkeypatch.syspath_prepend(str(folder))
        return "demo", package / source.FILE
