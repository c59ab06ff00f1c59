from __future__ import annotations

from pathlib import Path

import pytest

from sglcore.builtin.weight_specs import HUB, LOCAL
from sglcore.errors import ConfigError

SOURCE = LOCAL.load()()


def resolve(name: str) -> Path:
    return SOURCE.resolve(name, revision=None, download_dir=None)


def test_existing_directories_and_files_are_claimed_and_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "org" / "model"
    model.mkdir(parents=True)
    (model / "m.gguf").touch()
    monkeypatch.chdir(tmp_path)
    for name in (str(model), "org/model", "org/model/m.gguf", "."):
        assert SOURCE.claims(name)
        assert resolve(name) == Path(name).resolve()


def test_the_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SOURCE.claims("~/m")
    assert resolve("~/m") == tmp_path / "m"


@pytest.mark.parametrize("name", ["/no/such/model", "./m", "../m", "~/no-such-model"])
def test_an_absent_path_is_claimed_and_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert SOURCE.claims(name)
    with pytest.raises(ConfigError, match=f"Model path '{name}' does not exist.*hub id"):
        resolve(name)


@pytest.mark.parametrize("name", ["org/model", "demo", "", "a\0b", "x" * 5000])
def test_other_names_are_left_to_other_sources(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SOURCE.claims(name) is (name == "")  # an empty path is the current directory


@pytest.mark.parametrize("name", ["/a\0b", "/" + "x" * 5000])
def test_impossible_paths_are_config_errors(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        resolve(name)


def test_paths_come_before_the_hub() -> None:
    assert LOCAL.order < HUB.order
