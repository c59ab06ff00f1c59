"""What a user sees when something is wrong, at start and later: one paragraph, the right status, nothing left over."""

from __future__ import annotations

import json
import shutil
import signal
import socket

import httpx
import psutil
import pytest

from e2e.server import failing, running
from parity.tiny import make


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("models"))[0]


IDS = ("--skip-tokenizer-init", "--port", "0", "--max-total-tokens", "4096")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stop_leaves_nothing_behind(tiny, how):
    with running(str(tiny), *IDS) as server:
        engine = server.engine()
        assert (
            httpx.post(
                f"{server.url}/generate", json={"input_ids": [5], "sampling_params": {"max_new_tokens": 2}}, timeout=30
            ).status_code
            == 200
        )
        assert server.stop(how) in (0, 130)
        assert not psutil.pid_exists(engine.pid) or engine.status() == psutil.STATUS_ZOMBIE
        assert "Traceback" not in "".join(server.log)


def check(status: int, text: str, *words: str) -> None:
    assert status == 2, text
    assert "Traceback" not in text
    for word in words:
        assert word in text, text


def test_unknown_model():
    check(*failing("no-such-model-here", "--port", "0"), "no-such-model-here", "demo")


def test_port_in_use(tiny):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check(*failing(str(tiny), "--port", str(port)), str(port), "--port")


def test_bad_flag_value(tiny):
    check(*failing(str(tiny), "--page-size", "0"), "--page-size")
    check(*failing(str(tiny), "--page-sise", "2"), "--page-size")
    check(*failing(str(tiny), "--pp-size", "2"), "not yet supported")


def test_context_longer_than_the_model(tiny):
    check(*failing(str(tiny), *IDS, "--context-length", "100000"), "--context-length", "256")


def test_truncated_safetensors(tiny, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    check(*failing(str(broken), *IDS), "model.safetensors", "bytes")


def test_unreadable_gguf(tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    check(*failing(str(file), "--port", "0"), "broken.gguf")


def test_unknown_architecture_with_its_own_code(tiny, tmp_path):
    strange = tmp_path / "strange"
    shutil.copytree(tiny, strange)
    config = json.loads((strange / "config.json").read_text())
    config |= {
        "architectures": ["StrangeForCausalLM"],
        "model_type": "strange",
        "auto_map": {
            "AutoConfig": "configuration_strange.StrangeConfig",
            "AutoModelForCausalLM": "modeling_strange.StrangeForCausalLM",
        },
    }
    (strange / "config.json").write_text(json.dumps(config))
    check(*failing(str(strange), *IDS), "--trust-remote-code")


def test_missing_weights(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    lacking = tmp_path / "lacking"
    shutil.copytree(tiny, lacking)
    tensors = load_file(lacking / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, lacking / "model.safetensors", {"format": "pt"})
    check(*failing(str(lacking), *IDS), "model.layers.1.mlp.up_proj")
