from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from sglcore_plugin_modelscope.spec import SPEC

from sglcore.testing import InitConformance, WeightSourceConformance


class TestInit(InitConformance):
    distribution = "sglcore-plugin-modelscope"


class TestModelScopeSource(WeightSourceConformance):
    spec = SPEC

    @pytest.fixture(autouse=True)
    def unreachable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library, which would try for half a minute, finds out at once that there is no network."""

        def snapshot_download(*_: object, **__: object) -> str:
            raise ConnectionError("Network is unreachable")

        monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))

    def prepare(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
        """A stand-in for the library, which has downloaded the model already."""
        library = SimpleNamespace(snapshot_download=lambda *_, **__: str(folder))
        monkeypatch.setitem(sys.modules, "modelscope", library)
        return "modelscope://org/model", folder
