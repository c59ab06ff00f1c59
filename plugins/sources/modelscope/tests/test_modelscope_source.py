from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sglcore_plugin_modelscope.spec import SPEC

from sglcore.errors import ConfigError


class NotExistError(Exception):
    """Named as in the library, which is known by its names only."""


class HTTPError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"{status} error")
        self.response = SimpleNamespace(status_code=status)


def install(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[tuple[str, dict[str, Any]]]:
    """A module of the library's name whose download returns or raises `outcome`; gives the calls made."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(model: str, **options: Any) -> Any:
        calls.append((model, options))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    module = ModuleType("modelscope")
    monkeypatch.setattr(module, "snapshot_download", snapshot_download, raising=False)
    monkeypatch.setitem(sys.modules, "modelscope", module)
    return calls


def resolve(name: str, revision: str | None = None, download_dir: str | None = None) -> Path:
    return SPEC.load()().resolve(name, revision=revision, download_dir=download_dir)


@pytest.mark.parametrize("name", ["org/model", "modelscope://org/model"])
def test_passes_id_revision_and_cache_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    calls = install(monkeypatch, str(tmp_path))
    assert resolve(name, "v1.2", "/cache") == tmp_path
    [(model, options)] = calls
    assert (model, options["revision"], options["cache_dir"]) == ("org/model", "v1.2", "/cache")
    assert "*.safetensors" in options["allow_patterns"]
    assert not any("bin" in pattern or "pt" in pattern for pattern in options["allow_patterns"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotExistError("no such model"), "has no model 'org/m'.*Check the id"),
        (HTTPError(404), "has no model 'org/m'.*Check the id"),
        (HTTPError(403), "not open to this account.*modelscope login"),
        (ConnectionError("refused"), "cannot be reached.*network"),
        (TimeoutError(), "cannot be reached.*network"),
        (Exception("disk full"), "cannot be downloaded: disk full.*--download-dir"),
    ],
)
def test_every_failure_is_a_config_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    install(monkeypatch, error)
    with pytest.raises(ConfigError, match=message):
        resolve("org/m", "v9")


def test_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ConfigError, match=r"modelscope cannot be imported.*pip install modelscope"):
        resolve("org/m")


@pytest.mark.parametrize("name", ["m", "a/b/c", "modelscope://", "org/na me", "../m\n"])
def test_malformed_ids_are_refused_before_any_download(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls = install(monkeypatch, "/nowhere")
    with pytest.raises(ConfigError, match="not a ModelScope model id"):
        resolve(name)
    assert calls == []


def test_claims_its_prefix_only() -> None:
    source = SPEC.load()()
    assert SPEC.prefixes == ("modelscope://",)
    assert source.claims("modelscope://org/m")
    assert not source.claims("org/m")


def test_loading_the_source_imports_neither_the_library_nor_torch() -> None:
    code = (
        "import sys; from sglcore_plugin_modelscope.spec import SPEC; SPEC.load()();"
        "sys.exit(bool({'torch', 'modelscope'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
