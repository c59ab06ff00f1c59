"""`sglcore plugins explain`: the table that `serve` would log, from the same flags, without torch or weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sglcore import LLM
from sglcore.builtin.hub_source import HubSource
from sglcore.cli.main import run
from sglcore.engine.model_files import known_config
from sglcore.errors import ConfigError
from sglcore.plugins import discover

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "dtype": "bfloat16",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model of which only config.json is there."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["plugins", "explain", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"dtype": "float32"},
        {"page_size": 4, "attention_backend": "torch"},
        {"model_impl": "transformers", "dtype": "float32"},
    ],
)
def test_explain_and_the_engine_say_the_same(
    directory: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, Any]
) -> None:
    words = [word for k, v in flags.items() for word in (f"--{k.replace('_', '-')}", str(v))]
    table = explained(capsys, str(directory), *words)
    with LLM(str(directory), load_format="dummy", skip_tokenizer_init=True, max_total_tokens=64, **flags) as llm:
        assert llm.info["decisions"] == table
        assert llm.info["dtype"] == table["choice"]["dtype"]
    assert {row["state"] for row in table["attention"]} >= {"chosen"}


def test_an_architectures_name_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "explain", "NoSuchForCausalLM", "--dtype", "bfloat16"]) == 0
    shown = capsys.readouterr().out
    assert "no native plugin installed" in shown
    assert "chosen: platform cpu, dtype bfloat16, model transformers" in shown


def test_what_cannot_be_served_shows_the_table_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plugins", "explain", "LlamaForCausalLM", "--kv-cache-dtype", "int8", "--device", "cpu"]
    assert run(words) == 2
    shown = capsys.readouterr()
    assert "rejected (kv_dtypes): keeps keys and values in" in shown.out
    assert shown.err.startswith("sglcore: Platform cpu keeps keys and values in the compute type, ")
    assert run([*words, "--json"]) == 2
    assert "int8" in json.loads(capsys.readouterr().out)["refused"]


@pytest.mark.parametrize("words", [["no/such/place/here"], ["LlamaForCausalLM", "--attention-backend", "no_such"], []])
def test_mistakes_are_told_in_one_paragraph(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(["plugins", "explain", *words]) == 2
    assert capsys.readouterr().err.startswith("sglcore: ")


def test_the_hub_is_asked_for_config_json_alone(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"], options["allow_patterns"]))
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert explained(capsys, "org/name", "--revision", "v2")["choice"]["model"] == "LlamaForCausalLM"
    assert asked == [("org/name", "v2", ["config.json"])]


def test_a_source_that_can_only_download_is_not_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglcore.config import EngineConfig

    monkeypatch.delattr(HubSource, "resolve_config")
    monkeypatch.setattr(HubSource, "resolve", lambda *a, **k: pytest.fail("it was asked for the weights"))
    with pytest.raises(ConfigError, match="cannot tell what the model is without downloading it"):
        known_config("org/name", EngineConfig(model_path="org/name"), discover())


def test_neither_torch_nor_transformers_is_imported(directory: Path) -> None:
    code = (
        "import sys\nfrom sglcore.cli.main import run\n"
        "assert run(['plugins', 'explain', sys.argv[1]]) == 0\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
