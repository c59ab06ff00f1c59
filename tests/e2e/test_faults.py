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


def test_kill_of_the_engine_ends_streams_with_an_error_and_the_server_with_a_status(tiny):
    longer = ("--json-model-override-args", '{"max_position_embeddings": 65536}', "--max-total-tokens", "60000")
    with running(str(tiny), "--skip-tokenizer-init", "--port", "0", *longer) as server:
        body = {
            "input_ids": [5, 6, 7],
            "stream": True,
            "sampling_params": {"max_new_tokens": 50000, "ignore_eos": True},
        }
        with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            server.engine().kill()
            rest = [line for line in lines if line]
        assert "error" in rest[-2]
        assert "SIGKILL" in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert server.process.wait(60) != 0
        assert "SIGKILL" in "".join(server.log)
        assert "Traceback" not in "".join(server.log)


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
    check(*failing(str(tiny), "--tp-size", "2"), "not yet supported")


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
