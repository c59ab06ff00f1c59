from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from sglcore.builtin.weight_specs import HUB
from sglcore.errors import ConfigError

SOURCE = HUB.load()()
RESPONSE = httpx.Response(404, request=httpx.Request("GET", "http://hub"))


def resolve(name: str = "org/model", revision: str | None = None, download_dir: str | None = None) -> Path:
    return SOURCE.resolve(name, revision=revision, download_dir=download_dir)


def answer(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[tuple[str, dict[str, Any]]]:
    """Let the hub's download return or raise `outcome`; gives the calls made."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(name: str, **options: Any) -> Any:
        calls.append((name, options))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


@pytest.mark.parametrize("name", ["org/model", "Org_1/Model-0.5B.v2", "a/b"])
def test_ids_are_claimed(name: str) -> None:
    assert SOURCE.claims(name)


@pytest.mark.parametrize(
    "name", ["demo", "a/b/c", "/a/b", "./b", "../b", "a/", "a b/c", "a/..", "x://a/b", "a/b\n", "a--b/c"]
)
def test_other_names_are_not(name: str) -> None:
    assert not SOURCE.claims(name)


def test_options_reach_the_hub_and_only_safe_files_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").touch()
    calls = answer(monkeypatch, str(tmp_path))
    assert resolve(revision="v1", download_dir="/cache") == tmp_path
    [(name, options)] = calls
    assert (name, options["revision"], options["cache_dir"]) == ("org/model", "v1", "/cache")
    wanted = ["model-00001-of-00002.safetensors", "config.json", "tokenizer.model", "chat_template.jinja", "merges.txt"]
    unwanted = ["pytorch_model.bin", "model.pt", "model.pkl", "modeling_x.py", "original/params.json"]
    kept = huggingface_hub.utils.filter_repo_objects(
        [*wanted, *unwanted], allow_patterns=options["allow_patterns"], ignore_patterns=options["ignore_patterns"]
    )
    assert list(kept) == wanted


def test_a_snapshot_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, str(tmp_path))
    with pytest.raises(ConfigError, match=r"no .safetensors files.*gguf"):
        resolve()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("gated", response=RESPONSE), "is gated.*hf auth login"),
        (errors.RepositoryNotFoundError("none", response=RESPONSE), "no model 'org/model'.*spelling"),
        (errors.RevisionNotFoundError("none", response=RESPONSE), "no revision 'v9'.*--revision"),
        (errors.HFValidationError("bad id"), "no model 'org/model'.*spelling"),
        (
            errors.LocalEntryNotFoundError("not cached"),
            "not in the cache and the hub cannot be reached.*HF_HUB_OFFLINE",
        ),
        (errors.OfflineModeIsEnabled("offline"), "hub cannot be reached"),
        (ConnectionRefusedError("refused"), "hub cannot be reached"),
        (httpx.ConnectError("no route"), "hub cannot be reached"),
        (errors.HfHubHTTPError("500 Server Error", response=RESPONSE), "cannot be downloaded: 500 Server Error"),
        (OSError("No space left on device"), "No space left on device.*--download-dir"),
    ],
)
def test_every_failure_is_a_config_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    answer(monkeypatch, error)
    with pytest.raises(ConfigError, match=message):
        resolve(revision="v9")


def test_the_real_library_offline_serves_its_cache_and_explains_a_miss(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    refs = tmp_path / "models--org--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    code = (
        "import sys\nfrom sglcore.builtin.weight_specs import HUB\nfrom sglcore.errors import ConfigError\n"
        "ask = lambda name: HUB.load()().resolve(name, revision=None, download_dir=sys.argv[1])\n"
        "print(ask('org/model'))\n"
        "try: ask('org/other')\n"
        "except ConfigError as error: print(error)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    found, explained = done.stdout.splitlines()
    assert found == str(snapshot)
    assert "'org/other' (revision main) is not in the cache" in explained


def test_a_missing_library_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="pip install huggingface_hub"):
        resolve()


def test_loading_the_sources_and_the_format_is_light() -> None:
    code = (
        "import sys\nfrom sglcore.builtin import weight_specs as s\n"
        "[spec.load()() for spec in (s.LOCAL, s.HUB, s.SAFETENSORS)]\n"
        "print(*({'torch', 'transformers', 'huggingface_hub', 'safetensors'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
