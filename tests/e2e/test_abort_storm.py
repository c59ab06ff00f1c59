"""Clients that leave, at every moment and by the thousand: nothing of them stays, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from e2e.server import Server, running
from parity.tiny import make

FLAGS = (
    *("--skip-tokenizer-init", "--port", "0", "--page-size", "4", "--max-total-tokens", "6000"),
    *("--max-running-requests", "24", "--chunked-prefill-size", "64"),
)
CLIENTS = 40  # at once


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("models"))[0]


@dataclass
class Storm:
    """What happened to the requests of one storm."""

    finished: int = 0
    cancelled: int = 0
    running: int = 0  # cancels that met a request which had begun to answer
    wrong: list[str] = field(default_factory=list)


def body_of(number: int) -> dict[str, Any]:
    """One of 50 different greedy requests."""
    kind = number % 50
    prompt = [1 + (kind * 7 + i * 3) % 150 for i in range(3 + kind % 40)]
    sampling = {"max_new_tokens": 10 + kind % 40, "temperature": 0, "ignore_eos": True}
    if kind % 10 == 3:
        sampling["n"] = 2
    return {"input_ids": prompt, "sampling_params": sampling}


def key(number: int) -> int:
    return number % 50


async def one(
    client: httpx.AsyncClient, number: int, chance: random.Random, right: dict[int, Any], storm: Storm
) -> None:
    """Send a request; half of them leave, at a random moment before or after their first tokens."""
    leave = chance.random() < 0.5
    body = body_of(number)
    if chance.random() < 0.6:
        await streamed(client, body, number, chance.randint(0, 12) if leave else None, right, storm)
    elif leave:
        try:
            await asyncio.wait_for(client.post("/generate", json=body), chance.random() * 0.15)
            storm.finished += 1
        except TimeoutError:
            storm.cancelled += 1
    else:
        answer = await client.post("/generate", json=body)
        compare(number, ids_of(answer.json()), right, storm)


async def streamed(
    client: httpx.AsyncClient, body: dict[str, Any], number: int, leave_at: int | None, right: dict, storm: Storm
) -> None:
    latest: dict[int, list[int]] = {}
    seen = 0
    async with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        if leave_at == 0:
            storm.cancelled += 1
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            answer = json.loads(line[6:])
            latest[answer.get("index", 0)] = answer["output_ids"]
            seen += 1
            if leave_at is not None and seen >= leave_at:
                storm.cancelled += 1
                storm.running += 1
                return
    compare(number, [latest[i] for i in sorted(latest)], right, storm)


def ids_of(answer: Any) -> list[list[int]]:
    return [a["output_ids"] for a in answer] if isinstance(answer, list) else [answer["output_ids"]]


def compare(number: int, got: list[list[int]], right: dict[int, Any], storm: Storm) -> None:
    storm.finished += 1
    if right.get(key(number)) not in (None, got):
        storm.wrong.append(f"{number}: {got} instead of {right[key(number)]}")


async def rage(url: str, requests: int, seed: int, right: dict[int, Any]) -> Storm:
    storm, chance = Storm(), random.Random(seed)
    numbers = iter(range(requests))
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def worker() -> None:
            for number in numbers:
                await one(client, number, chance, right, storm)

        await asyncio.gather(*(worker() for _ in range(CLIENTS)))
    return storm


def rest(server: Server) -> dict[str, Any]:
    """The engine's counters once nothing runs or waits."""
    limit = time.monotonic() + 60
    while True:
        info = httpx.get(f"{server.url}/server_info", timeout=30).json()
        state = info["internal_states"][0]["internal_states"][0]
        if not state["num_running_reqs"] and not state["num_queue_reqs"] and not state["num_used_tokens"]:
            return state
        assert time.monotonic() < limit, state


def alone(server: Server) -> dict[int, Any]:
    """What each kind of request answers when nothing else runs."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        return {number: ids_of(client.post("/generate", json=body_of(number)).json()) for number in range(50)}


def storm_over(server: Server, requests: int, seed: int, right: dict[int, Any]) -> Storm:
    storm = asyncio.run(rage(server.url, requests, seed, right))
    assert storm.wrong == []
    assert storm.finished + storm.cancelled == requests
    return storm


def memory(server: Server) -> int:
    processes = [psutil.Process(server.process.pid), server.engine()]
    return sum(process.memory_info().rss for process in processes)


def check(server: Server, requests: int, storms: int) -> None:
    right = alone(server)
    storm_over(server, requests, 0, right)  # warms up pools, sockets and arenas
    idle, before = rest(server), memory(server)
    files = [psutil.Process(server.process.pid).num_fds(), server.engine().num_fds()]
    total, running = 0, 0
    for seed in range(1, storms + 1):
        storm = storm_over(server, requests, seed, right)
        total += storm.cancelled
        running += storm.running
    state = rest(server)
    growth = memory(server) / before
    print(f"{storms} storms of {requests}: {total} cancelled, {running} of them running; RSS {growth:.4f}x")
    assert running >= 0.4 * total
    for name in ("num_used_tokens", "num_running_reqs", "num_queue_reqs"):
        assert state[name] == idle[name] == 0
    assert state["free_pages"] + state["cached_pages"] == idle["free_pages"] + idle["cached_pages"]
    assert httpx.post(f"{server.url}/flush_cache", timeout=30).status_code == 200
    flushed = rest(server)
    assert flushed["free_pages"] == 1500 and flushed["cached_pages"] == 0
    now = [psutil.Process(server.process.pid).num_fds(), server.engine().num_fds()]
    assert all(after <= begun + CLIENTS for after, begun in zip(now, files, strict=True))
    assert growth <= 1.02


def test_a_storm_of_aborts_leaves_nothing(tiny):
    with running(str(tiny), *FLAGS) as server:
        check(server, 300, 1)
    assert "Traceback" not in "".join(server.log)


@pytest.mark.slow
def test_three_great_storms(tiny):
    with running(str(tiny), *FLAGS) as server:
        check(server, 2000, 3)
    assert "Traceback" not in "".join(server.log)
