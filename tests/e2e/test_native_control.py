"""Control endpoints of the native dialect against a real server, with one API worker and with two."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from e2e.server import Server, failing, running
from parity.tiny import make
from server.certificate import certificate

FLAGS = (
    *("--skip-tokenizer-init", "--port", "0", "--page-size", "4", "--max-total-tokens", "40000"),
    *("--json-model-override-args", '{"max_position_embeddings": 65536}', "--enable-slow-down"),
    *("--incremental-streaming-output", "--weight-version", "first"),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("models"))[0]


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def served(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("profiles")
    flags = ("--api-workers", str(request.param), "--torch-profiler-dir", str(folder))
    with running(str(tiny), *FLAGS, *flags) as server:
        server.folder = folder  # type: ignore[attr-defined]
        yield server


def post(server: Server, path: str, body: Any = None, status: int = 200) -> Any:
    """On a connection of its own, so that either worker may answer."""
    answer = httpx.post(server.url + path, json=body, timeout=120)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.text else None


def everywhere(server: Server, path: str) -> set[str]:
    """What a path answers, asked over connections enough that each worker is met."""
    clients = [httpx.Client(base_url=server.url, timeout=60) for _ in range(12)]
    try:
        return {client.get(path).text for client in clients}
    finally:
        for client in clients:
            client.close()


def ask(tokens: int = 8, **fields: Any) -> dict[str, Any]:
    sampling = {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return {"input_ids": [5, 7, 9], "sampling_params": sampling, **fields}


def wait_until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        threading.Event().wait(0.05)


def restarts(server: Server, name: str) -> int:
    """As /server_info tells them; those of before where the worker that was asked has died meanwhile."""
    try:
        return int(httpx.get(server.url + "/server_info", timeout=60).json()[name])
    except httpx.TransportError:
        return -1


def test_a_profile_holds_the_steps_that_were_asked_for(served: Server) -> None:
    before = post(served, "/generate", ask())["output_ids"]
    path = post(served, "/start_profile", {"num_steps": 3, "output_dir": "below"})["path"]
    assert post(served, "/start_profile", {}, 400)["error"]["code"] == "profile_running"
    assert post(served, "/generate", ask())["output_ids"] == before
    wait_until(Path(path).exists)
    assert Path(path).is_relative_to(served.folder) and not list(Path(path).parent.glob("*.part*"))  # type: ignore[attr-defined]
    names = {event.get("name", "") for event in json.loads(gzip.decompress(Path(path).read_bytes()))["traceEvents"]}
    assert any(name.startswith("aten::") for name in names)
    assert post(served, "/stop_profile", None, 400)["error"]["code"] == "profile_not_running"


def test_a_profile_ends_when_it_is_told_to(served: Server) -> None:
    post(served, "/start_profile", {"record_shapes": True, "with_stack": True})
    post(served, "/generate", ask(6))
    stopped = post(served, "/stop_profile")
    assert Path(stopped["path"]).stat().st_size > 0 and 6 <= stopped["steps"] <= 8
    later = post(served, "/start_profile", {"start_step": 2**31 - 1})["path"]
    assert post(served, "/stop_profile")["path"] is None and not Path(later).exists()
    assert post(served, "/start_profile", {"activities": ["GPU"]}, 400)["error"]["param"] == "activities"


def test_a_version_is_told_by_whoever_answers(served: Server) -> None:
    assert everywhere(served, "/weight_version") == {'{"weight_version":"first"}'}
    post(served, "/update_weight_version", {"new_version": "second"})
    assert everywhere(served, "/weight_version") == {'{"weight_version":"second"}'}
    assert post(served, "/generate", ask())["meta_info"]["weight_version"] == "second"
    post(served, "/update_weight_version", {"new_version": "first"})


def test_a_new_version_ends_what_runs(served: Server) -> None:
    post(served, "/slow_down", {"forward_sleep_time": 0.02})
    with httpx.stream("POST", served.url + "/generate", json=ask(5000, stream=True), timeout=60) as stream:
        lines = stream.iter_lines()
        first = next(line for line in lines if line)
        post(served, "/update_weight_version", {"new_version": "first"})
        rest = [line for line in lines if line]
    post(served, "/slow_down", {"forward_sleep_time": 0})
    last = json.loads(rest[-2][6:])
    assert len(json.loads(first[6:])["output_ids"]) == 1 and rest[-1] == "data: [DONE]"
    assert last["meta_info"]["finish_reason"]["type"] == "abort"
    assert "version" in last["meta_info"]["finish_reason"]["message"]


def test_slowing_down_delays_steps_and_ends(served: Server) -> None:
    post(served, "/slow_down", {"forward_sleep_time": 0.1})
    slow = post(served, "/generate", ask(5))["meta_info"]["e2e_latency"]
    post(served, "/slow_down", {"forward_sleep_time": 0.2})  # a change, not a second one
    slower = post(served, "/generate", ask(5))["meta_info"]["e2e_latency"]
    post(served, "/slow_down", {})
    assert slow >= 0.5 and slower >= 1.0
    assert post(served, "/generate", ask(5))["meta_info"]["e2e_latency"] < slower


def test_settings_outlive_an_engine_and_reach_every_worker(served: Server) -> None:
    post(served, "/set_internal_state", {"server_args": {"chunked_prefill_size": 10**9}}, 400)
    args = {"request_timeout": 0.05, "chunked_prefill_size": 16, "max_queued_tokens": 5000}
    post(served, "/set_internal_state", {"server_args": args})
    (standing,) = everywhere(served, "/set_internal_state")
    assert json.loads(standing)["server_args"] | args == json.loads(standing)["server_args"]
    for _ in range(2):  # of this engine, and of the next
        finish = post(served, "/generate", ask(20000))["meta_info"]["finish_reason"]
        assert (finish["type"], finish["status_code"]) == ("abort", 504)
        before = restarts(served, "engine_restarts")
        served.engine().kill()
        wait_until(lambda: restarts(served, "engine_restarts") > before)  # noqa: B023
        wait_until(lambda: httpx.get(served.url + "/readyz").status_code == 200)
        assert everywhere(served, "/set_internal_state") == {standing}
    post(served, "/set_internal_state", {"server_args": {"request_timeout": None}})
    assert len(post(served, "/generate", ask(200))["output_ids"]) == 200


def test_a_worker_that_starts_later_knows_what_was_changed(served: Server) -> None:
    if "--api-workers 1" in " ".join(psutil.Process(served.process.pid).cmdline()):
        pytest.skip("there is one process")
    post(served, "/update_weight_version", {"new_version": "third"})
    children = psutil.Process(served.process.pid).children(recursive=True)
    workers = [child for child in children if "sglcore.server.worker" in " ".join(child.cmdline())]
    assert len(workers) == 2
    for worker in workers:
        before = restarts(served, "api_worker_restarts")
        worker.kill()
        wait_until(lambda: restarts(served, "api_worker_restarts") > before)  # noqa: B023
    assert everywhere(served, "/weight_version") == {'{"weight_version":"third"}'}


def test_loads_and_garbage(served: Server) -> None:
    post(served, "/freeze_gc")
    (load,) = httpx.get(served.url + "/v1/loads?include=all").json()["loads"]
    assert load["max_total_num_tokens"] == 40000 and "free_pages" in load["memory"]
    assert httpx.get(served.url + "/ready").status_code == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tls_and_huge_heads_on_a_real_server(tiny: Path, tmp_path: Path, workers: str) -> None:
    key, cert = certificate(tmp_path, "localhost", "passw0rd")
    flags = ("--ssl-keyfile", str(key), "--ssl-certfile", str(cert), "--ssl-keyfile-password", "passw0rd")
    flags += ("--api-key", "us3r-k3y", "--admin-api-key", "adm1n-k3y", "--api-workers", workers)
    with running(str(tiny), *FLAGS, *flags) as server:
        assert server.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=server.url, verify=trust, timeout=60) as client:
            own = {"Authorization": "Bearer adm1n-k3y"}
            assert client.post("/generate", json=ask(), headers=own).status_code == 200
            assert client.post("/flush_cache", headers={"Authorization": "Bearer us3r-k3y"}).status_code == 403
            info = client.get("/server_info", headers=own)
            assert client.get("/health", headers={"X-Big": "x" * 100_000}).status_code == 431
            assert client.get("/health").headers["x-content-type-options"] == "nosniff"
        server.stop()
        told = info.text + "".join(server.log)
    assert info.status_code == 200 and not any(secret in told for secret in ("us3r-k3y", "adm1n-k3y", "passw0rd"))


def test_flags_that_cannot_work_stop_the_start(tiny: Path, tmp_path: Path) -> None:
    for flags, named in (
        (("--ssl-keyfile", "x"), "--ssl-certfile"),
        (("--cors-allow-origins", "chat.example"), "--cors-allow-origins"),
        (("--allowed-media-domains", "http://x"), "--allowed-media-domains"),
    ):
        code, text = failing(str(tiny), *FLAGS, *flags)
        assert code != 0 and named in text and "Traceback" not in text
