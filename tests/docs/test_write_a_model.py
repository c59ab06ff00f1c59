"""The model tutorial, executed: its files are taken out of the page, built, installed, checked and served."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "write-a-model.md").read_text()
FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.M | re.S)
NAME = "sglcore-plugin-smollm3"
SERVE = """
import sys
import torch
from transformers import SmolLM3Config, SmolLM3ForCausalLM
from sglcore import LLM

torch.manual_seed(5)
sizes = dict(vocab_size=90, hidden_size=32, intermediate_size=48, num_hidden_layers=4, max_position_embeddings=128)
heads = dict(num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
model = SmolLM3ForCausalLM(SmolLM3Config(**sizes, **heads)).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.normal_(float(parameter.dim() == 1), 0.25)
model.save_pretrained(sys.argv[1])
prompt = [5, 17, 44, 3, 61]
with LLM(sys.argv[1], model_impl="sglcore", skip_tokenizer_init=True, dtype="float32", max_total_tokens=512) as llm:
    (answer,) = llm.generate([prompt], {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True})
found = answer["output_ids"]
logits = model(torch.tensor([prompt + found])).logits[0, len(prompt) - 1 : -1]
best, chosen = logits.max(-1).values, logits.gather(-1, torch.tensor(found)[:, None])[:, 0]
print(len(found), len(set(found)) > 5, bool((best - chosen < 1e-4).all()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, written out."""
    home = tmp_path_factory.mktemp("model")
    for name, text in FILE.findall(PAGE):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return home / NAME


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """An environment in which the plugin is installed, without touching the one that runs the tests."""
    site = folder.parent / "site"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", site, folder]
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", *install], folder.parent, dict(os.environ))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}


def run(command: list[object], cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_page_shows_every_file_it_lists(folder: Path) -> None:
    tree = re.search(rf"```text\n({NAME}/\n.*?)```", PAGE, re.S)
    assert tree is not None
    written = {p.name for p in folder.rglob("*") if p.is_file()}
    assert {Path(name).name for name in re.findall(r"[\w./-]+\.(?:py|toml)", tree[1])} == written


def test_it_passes_the_conformance_kit(folder: Path, environment: dict[str, str]) -> None:
    report = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"], folder, environment)
    found = re.search(r"^=+ (\d+) passed", report, re.M)
    assert found is not None and int(found[1]) >= 20, report


def test_it_is_listed(folder: Path, environment: dict[str, str]) -> None:
    listing = run([sys.executable, "-m", "sglcore", "plugins", "list", "--family", "models"], folder, environment)
    assert re.search(rf"^models +SmolLM3ForCausalLM .*{NAME} +0\.1\.0 +ok", listing, re.M), listing


def test_it_serves_what_transformers_would_say(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    said = run([sys.executable, "-c", SERVE, tmp_path], folder, environment)
    assert said.splitlines()[-1] == "24 True True"
