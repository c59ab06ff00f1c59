"""A stop that loses nothing, and a step that never ends."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from e2e.server import Server, running
from parity.tiny import make

LONG = ("--json-model-override-args", '{"max_position_embeddings": 65536}', "--max-total-tokens", "60000")
FLAGS = ("--skip-tokenizer-init", "--port", "0", *LONG)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("models"))[0]


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        threading.Event().wait(0.02)


def streamed(server: Server, tokens: int, begun: threading.Event) -> list[dict]:
    sampling = {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0}
    body = {"input_ids": [5, 6, 7], "stream": True, "sampling_params": sampling, "rid": "long"}
    answers: list[dict] = []
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=120) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                answers.append(json.loads(line[6:]))
                begun.set()
    return answers


def test_sigterm_lets_open_requests_end_and_takes_no_new_ones(tiny):
    begun = threading.Event()
    with running(str(tiny), *FLAGS, "--drain-timeout", "120") as server, ThreadPoolExecutor(1) as pool:
        assert httpx.get(f"{server.url}/readyz").text == "ok"
        stream = pool.submit(streamed, server, 500, begun)
        assert begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        assert httpx.get(f"{server.url}/livez").status_code == 200
        refused = httpx.post(f"{server.url}/generate", json={"input_ids": [1]})
        assert refused.status_code == 503 and "shutting down" in refused.text
        answers = stream.result(timeout=120)
        assert answers[-1]["meta_info"]["completion_tokens"] == 500
        assert server.process.wait(30) == 0
    assert "Traceback" not in "".join(server.log)


def test_what_does_not_end_in_time_is_told_so(tiny):
    begun = threading.Event()
    with running(str(tiny), *FLAGS, "--drain-timeout", "0.5") as server, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(streamed, server, 50000, begun)
        assert begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        answers = stream.result(timeout=60)
        assert "stopped before this request ended" in answers[-1]["error"]["message"]
        assert server.process.wait(30) == 0


HANGING = '''
import threading
from pathlib import Path
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.contracts.attention import AttentionSpec

SPEC = AttentionSpec(name="hanging", factory="hanging_attention:Hanging", dtypes=("float32",), sliding_window=True,
                     soft_cap=True, sinks=True)
ONCE = Path(__file__).with_name("hung")

class Hanging(TorchAttention):
    """Never returns from the first step that holds a row of 40 tokens or more."""

    def plan(self, batches):
        if (batches[0].kv_lens_host >= 40).any() and not ONCE.exists():
            ONCE.touch()
            threading.Event().wait()
        return super().plan(batches)
'''


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging_attention.py").write_text(HANGING)
    info = tmp_path / "hanging_attention-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging-attention\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sglcore.attention.v1]\nhanging = hanging_attention:SPEC\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_a_step_that_never_ends_is_ended_and_its_requests_go_on(tiny, hanging):
    begun = threading.Event()
    flags = ("--attention-backend", "hanging", "--watchdog-timeout", "2")
    with running(str(tiny), *FLAGS, *flags) as server:
        answers = streamed(server, 60, begun)
        assert answers[-1]["meta_info"]["completion_tokens"] == 60
        info = httpx.get(f"{server.url}/server_info", timeout=30).json()
        assert info["engine_restarts"] == 1 and info["replayed_requests"] == 1
        again = streamed(server, 60, begun)
        assert again[-1]["output_ids"] == answers[-1]["output_ids"]
    log = "".join(server.log)
    assert "no step has ended for" in log and "long" in log, log
    assert "hanging_attention.py" in log, "the dump shows where it hung"


def test_an_engine_that_cannot_be_kept_alive_leaves_the_server_unready(tiny):
    with running(str(tiny), *FLAGS, "--max-engine-restarts", "0") as server, ThreadPoolExecutor(1) as pool:
        begun = threading.Event()
        stream = pool.submit(streamed, server, 50000, begun)
        assert begun.wait(60)
        server.engine().kill()
        assert "left dead" in stream.result(timeout=60)[-1]["error"]["message"]
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert httpx.get(f"{server.url}/livez").status_code == 503
        assert httpx.post(f"{server.url}/generate", json={"input_ids": [1]}).status_code == 503
