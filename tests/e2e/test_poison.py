"""One request that kills every engine which runs it: it alone fails, and everybody else is served."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from e2e.server import running
from parity.tiny import make

PLUGIN = '''
import os
import torch
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.contracts.attention import AttentionSpec

SPEC = AttentionSpec(name="deadly", factory="deadly_attention:Deadly", dtypes=("float32",), sliding_window=True,
                     soft_cap=True, sinks=True)

class Deadly(TorchAttention):
    """Ends the process as a fault in a kernel would, when a row of exactly 29 tokens is in its prompt: more than any
    innocent one has when it is replayed with its output."""

    def plan(self, batches):
        lens, new = batches[0].kv_lens_host, batches[0].q_lens_host
        if ((lens == 29) & (new > 1)).any():
            os.kill(os.getpid(), 9)
        return super().plan(batches)
'''
METADATA = "Metadata-Version: 2.1\nName: deadly-attention\nVersion: 1.0\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("models"))[0]


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin on the path, with the metadata of an installed one."""
    (tmp_path / "deadly_attention.py").write_text(PLUGIN)
    info = tmp_path / "deadly_attention-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text("[sglcore.attention.v1]\ndeadly = deadly_attention:SPEC\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def ask(url: str, prompt: list[int]) -> httpx.Response:
    body = {"input_ids": prompt, "sampling_params": {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True}}
    return httpx.post(f"{url}/generate", json=body, timeout=240)


def test_31_of_32_are_served(tiny, deadly):
    flags = ("--skip-tokenizer-init", "--port", "0", "--max-total-tokens", "8192", "--skip-server-warmup")
    prompts = [[number + 1] * 5 for number in range(31)]
    prompts.insert(11, [9] * 29)
    with running(str(tiny), *flags, "--attention-backend", "deadly", "--disable-radix-cache") as server:
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda prompt: ask(server.url, prompt), prompts))
        failed = [i for i, answer in enumerate(answers) if answer.status_code != 200]
        assert failed == [11], [a.text for a in answers if a.status_code != 200]
        assert answers[11].status_code == 500 and "engine_death" in answers[11].text
        info = httpx.get(f"{server.url}/server_info", timeout=30).json()
        assert info["poisoned_requests"] == 1
        # All, all again, five times halves; and once more where the last one had company when it died alone.
        assert info["engine_restarts"] <= 8
        assert ask(server.url, [3] * 6).status_code == 200
