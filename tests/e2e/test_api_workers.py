"""Two API workers on one port: whoever answers, the answer is right; whoever dies, the others go on."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from e2e.server import Server, failing, running
from e2e.test_poison import deadly  # noqa: F401  (a fixture)
from parity.tiny import make

FLAGS = (
    *("--skip-tokenizer-init", "--port", "0", "--page-size", "4", "--max-total-tokens", "40000"),
    *("--json-model-override-args", '{"max_position_embeddings": 65536}', "--max-running-requests", "24"),
    *("--api-workers", "2"),
)
LONG = 20000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("models"))[0]


@pytest.fixture(scope="module")
def served(tiny) -> Iterator[Server]:
    with running(str(tiny), *FLAGS) as server:
        yield server


def wait_until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    limit = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < limit
        threading.Event().wait(0.02)
    return found


class Pinned(httpx.Client):
    """A client whose one connection stays with the worker that took it, while it is not idle for 5 s."""

    def __init__(self, server: Server) -> None:
        super().__init__(base_url=server.url, timeout=120, verify=False, limits=httpx.Limits(max_connections=1))
        self.worker: int = self.get("/server_info").json()["api_worker"]


def one_each(server: Server) -> tuple[Pinned, Pinned]:
    """A client of worker 0 and one of worker 1."""
    found: dict[int, Pinned] = {}
    spare = []
    for _ in range(200):
        client = Pinned(server)
        if client.worker in found:
            spare.append(client)  # kept open: who has many connections is less eager to take another
        found.setdefault(client.worker, client)
        if len(found) == 2:
            break
    for client in spare:
        client.close()
    return found[0], found[1]


def ask(number: int, tokens: int = 24, **fields: Any) -> dict[str, Any]:
    sampling = {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return {"input_ids": [number + 1, 7, 9] * (1 + number % 5), "sampling_params": sampling, **fields}


def plain(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def streamed(client: httpx.Client, body: dict[str, Any], begun: threading.Event | None = None) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line[6:]))
                if begun is not None:
                    begun.set()
    return events


def stats(client: httpx.Client) -> dict[str, Any]:
    """The engine's own."""
    state: dict[str, Any] = client.get("/server_info").json()["internal_states"][0]["internal_states"][0]
    return state


def idle(client: httpx.Client) -> bool:
    state = stats(client)
    return not state["num_running_reqs"] and not state["num_used_tokens"]


def total(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"sglcore:{name}{{"))


def workers(server: Server) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children():
        try:
            if "sglcore.server.worker" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def pid_of(server: Server, client: Pinned) -> psutil.Process:
    """The process at the other end of a client's connection."""
    port = client._transport._pool.connections[0]._connection._network_stream.get_extra_info("client_addr")[1]
    for process in workers(server):
        if any(c.raddr and c.raddr.port == port for c in process.net_connections("tcp")):
            return process
    raise AssertionError("nobody holds the connection")


def test_both_answer_the_same(served):
    first, second = one_each(served)
    assert re.match(r"http://127.0.0.1:[1-9]\d*$", served.url)
    for number in range(4):
        body = ask(number)
        one, other = plain(first, body), plain(second, body)
        assert one["output_ids"] == other["output_ids"]
        for client in (first, second):
            assert streamed(client, body)[-1]["output_ids"] == one["output_ids"]


def test_metrics_are_sums_whoever_is_asked(served):
    first, second = one_each(served)
    before = total(first.get("/metrics").text, "num_requests_total")
    for client in (first, second, second):
        plain(client, ask(1, no_such_field=1))
    texts = [client.get("/metrics").text for client in (first, second)]
    for text in texts:
        assert total(text, "num_requests_total") == before + 3
        assert total(text, "e2e_request_latency_seconds_count") == before + 3
        assert total(text, 'e2e_request_latency_seconds_bucket{le="+Inf",model_name') in (0, before + 3)
        assert len(re.findall(r"^# TYPE sglcore:num_requests_total counter$", text, re.M)) == 1
    assert total(texts[0], "generation_tokens_total") == total(texts[1], "generation_tokens_total")
    fields = [client.get("/server_info").json()["ignored_request_fields"] for client in (first, second)]
    assert fields[0] == fields[1] and fields[0]["no_such_field"] >= 3


def test_abort_pause_flush_and_duplicates_across_workers(served):
    first, second = one_each(served)
    with ThreadPoolExecutor(2) as pool:
        begun = threading.Event()
        stream = pool.submit(streamed, first, ask(2, LONG, rid="across"), begun)
        assert begun.wait(30)
        twice = second.post("/generate", json=ask(3, rid="across"))
        assert twice.status_code == 400 and twice.json()["error"]["param"] == "rid"
        assert second.post("/flush_cache").status_code == 400  # busy
        assert second.post("/pause_generation", json={"mode": "in_place"}).status_code == 200
        assert stats(second)["paused"]
        assert second.post("/abort_request", json={"rid": "across"}).json() == {"aborted": 1}
        assert stream.result(30)[-1]["meta_info"]["finish_reason"]["type"] == "abort"
        assert second.post("/continue_generation").status_code == 200
    third, _ = one_each(served)
    wait_until(lambda: idle(third))
    assert third.post("/flush_cache").status_code == 200


def said(client: httpx.Client, session: str, rid: str, after: str | None, prompt: list[int]) -> dict[str, Any]:
    sampling = {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True}
    params = {"id": session, "rid": after}
    return plain(client, {"input_ids": prompt, "sampling_params": sampling, "rid": rid, "session_params": params})


def test_a_session_goes_through_both_workers_and_a_death(served):
    first, second = one_each(served)
    session = first.post("/open_session", json={"capacity_of_str_len": 0}).json()
    one = said(second, session, "one", None, [3, 4, 5])
    two = said(first, session, "two", "one", [8])
    three = said(second, session, "three", "two", [9])
    engine = served.engine()
    engine.kill()
    engine.wait(20)
    wait_until(lambda: first.get("/readyz").status_code == 200 and second.get("/readyz").status_code == 200)
    again = said(first, session, "four", "two", [9])
    assert again["output_ids"] == three["output_ids"]
    assert again["meta_info"]["prompt_tokens"] == 3 + len(one["output_ids"]) + 1 + len(two["output_ids"]) + 1
    assert second.post("/close_session", json={"session_id": session}).status_code == 200


def test_kill_9_of_the_engine_under_streams_of_both(served):
    bodies = [ask(number, 120) for number in range(16)]
    clients = [one_each(served)[number % 2] for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        calm = list(pool.map(streamed, clients, bodies))
        begun = [threading.Event() for _ in bodies]
        streams = [pool.submit(streamed, *each) for each in zip(clients, bodies, begun, strict=True)]
        assert all(event.wait(60) for event in begun)
        served.engine().kill()
        answers = [stream.result(120) for stream in streams]
    for one, other in zip(calm, answers, strict=True):
        assert other[-1].get("output_ids") == one[-1]["output_ids"], other[-1]
    infos = [client.get("/server_info").json() for client in one_each(served)]
    assert infos[0]["replayed_requests"] == infos[1]["replayed_requests"] >= 8
    assert infos[0]["engine_restarts"] == infos[1]["engine_restarts"] >= 1
    wait_until(lambda: idle(clients[0]))


def test_kill_9_of_a_worker_ends_its_own_requests_only(served):
    right = plain(httpx.Client(base_url=served.url, timeout=120), ask(5, 400))["output_ids"]
    first, second = one_each(served)
    restarts = second.get("/server_info").json()["api_worker_restarts"]
    before = total(second.get("/metrics").text, "num_requests_total")
    with ThreadPoolExecutor(2) as pool:
        begun = [threading.Event(), threading.Event()]
        doomed = pool.submit(streamed, first, ask(4, LONG, rid="doomed"), begun[0])
        spared = pool.submit(streamed, second, ask(5, 400), begun[1])
        assert all(event.wait(30) for event in begun)
        victim = pid_of(served, first)
        assert victim != pid_of(served, second)
        victim.kill()
        assert spared.result(60)[-1]["output_ids"] == right
        with pytest.raises(httpx.TransportError):
            doomed.result(30)
    wait_until(lambda: idle(second))
    wait_until(lambda: len(workers(served)) == 2)
    first, second = wait_until(lambda: one_each_or_none(served))
    infos = [client.get("/server_info").json() for client in (first, second)]
    assert [info["api_worker_restarts"] for info in infos] == [restarts + 1] * 2
    assert total(first.get("/metrics").text, "num_requests_total") >= before + 1, "what the dead one told is kept"
    assert plain(first, ask(5, 400))["output_ids"] == right == plain(second, ask(5, 400))["output_ids"]


def one_each_or_none(server: Server) -> tuple[Pinned, Pinned] | None:
    try:
        return one_each(server)
    except KeyError:
        return None


def test_sigterm_drains_both_and_nothing_is_left(tiny):
    with running(str(tiny), *FLAGS, "--drain-timeout", "120") as server, ThreadPoolExecutor(4) as pool:
        clients = one_each(server)
        begun = [threading.Event(), threading.Event()]
        streams = [pool.submit(streamed, c, ask(6, 600), e) for c, e in zip(clients, begun, strict=True)]
        assert all(event.wait(60) for event in begun)
        processes = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        refused = httpx.post(f"{server.url}/generate", json={"input_ids": [1]})
        assert refused.status_code == 503 and "shutting down" in refused.text
        for stream in streams:
            assert stream.result(120)[-1]["meta_info"]["completion_tokens"] == 600
        assert server.process.wait(30) == 0
        assert not [p for p in processes if p.is_running()]
    assert "Traceback" not in "".join(server.log)


def test_a_bad_flag_of_the_workers_stops_the_start(tiny):
    status, text = failing(str(tiny), "--port", "0", "--api-workers", "2", "--tool-call-parser", "nobody")
    assert status == 2 and "--tool-call-parser" in text and "Traceback" not in text


def test_the_one_that_kills_every_engine_is_found_among_both_workers(tiny, deadly):  # noqa: F811
    bodies = [
        {"input_ids": [n + 1] * 14, "sampling_params": {"max_new_tokens": 11, "temperature": 0}} for n in range(23)
    ]
    bodies.insert(7, {**bodies[0], "input_ids": [9] * 29})  # no other row is ever so long
    flags = ("--max-running-requests", "24", "--skip-server-warmup", "--attention-backend", "deadly")
    with running(str(tiny), *FLAGS, *flags, "--disable-radix-cache") as server, ThreadPoolExecutor(24) as pool:
        clients = [client for _ in range(12) for client in one_each(server)]
        answers = list(pool.map(lambda client, body: client.post("/generate", json=body), clients, bodies))
        assert [i for i, answer in enumerate(answers) if answer.status_code != 200] == [7]
        assert answers[7].status_code == 500 and "engine_death" in answers[7].text
        for client in one_each(server):
            info = client.get("/server_info").json()
            assert info["poisoned_requests"] == 1 and info["engine_restarts"] <= 8


def test_kill_9_of_the_parent_leaves_nobody(tiny):
    with running(str(tiny), *FLAGS) as server:
        processes = psutil.Process(server.process.pid).children(recursive=True)
        assert len(processes) == 3  # the engine, two workers
        server.process.kill()
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert not alive
