"""Control endpoints against a real engine loop over a fake model: abort, pause, flush, sessions, deadlines, 429."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq

from engine.fakes import InlineExecutor
from scheduler.fake import VOCAB, build, run_alone
from server.client import events, http_client
from server.scripted import HANG, ScriptedEngine, model_info, output, server_context, tiny_text
from sglcore.engine.client import ZmqClient
from sglcore.engine.engine import Engine
from sglcore.engine.link import ZmqPort
from sglcore.engine.loop import EngineLoop
from sglcore.plugins import select
from sglcore.request import SessionParams
from sglcore.scheduler import PriorityRules, Scheduler
from sglcore.server.context import ServerContext
from sglcore.server_config import ServerConfig

pytestmark = pytest.mark.asyncio


@dataclass
class Served:
    client: httpx.AsyncClient
    scheduler: Scheduler
    gate: threading.Event  # while it is clear no step runs

    async def generate(self, rid: str, prompt: list[int], new: int = 4, **fields: Any) -> httpx.Response:
        sampling = {"max_new_tokens": new, "n": fields.pop("n", 1), "ignore_eos": True}
        body = {"input_ids": prompt, "rid": rid, "sampling_params": sampling, **fields}
        return await self.client.post("/generate", json=body)

    async def pause(self) -> None:
        await self.client.post("/pause_generation", json={"mode": "in_place"})

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds in the engine's thread."""
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def served(folder: Path, **limits: Any) -> AsyncIterator[Served]:
    scheduler, runner = build(context=512, pages=1200, **limits)
    gate = threading.Event()
    gate.set()
    executor = InlineExecutor(runner)
    forward = executor.forward

    def gated(batch: Any) -> None:
        gate.wait(20)
        forward(batch)

    executor.forward = gated  # type: ignore[method-assign]
    wake = f"inproc://wake-{folder.name}"
    port = ZmqPort(f"ipc://{folder}/e", wake=wake)
    loop = EngineLoop(Engine(scheduler, executor, overlap=True), port, select([], "none").hooks, {})
    thread = threading.Thread(target=loop.run)
    thread.start()
    engine = ZmqClient(f"ipc://{folder}/e")
    try:
        config = ServerConfig(model_path="org/tiny-model")
        context = ServerContext(config, engine, None, model_info(VOCAB, context_length=512))
        async with http_client(context) as client:
            yield Served(client, scheduler, gate)
    finally:
        gate.set()
        await engine.close()
        push = zmq.Context.instance().socket(zmq.PUSH)
        push.connect(wake)
        push.send(b"")
        thread.join(20)
        push.close()
        port.close()
        assert not thread.is_alive()
    assert not scheduler.requests and scheduler.ledger.held() == [0] and not scheduler.seats.occupied


async def test_abort_by_id_by_prefix_and_all(tmp_path: Path) -> None:
    async with served(tmp_path, rows=2) as engine:
        tasks = [asyncio.create_task(engine.generate("job-1", [1], 500))]
        await engine.until(lambda: engine.scheduler.counts["generated_tokens"] > 2)
        await engine.pause()  # so that none ends by itself
        tasks += [asyncio.create_task(engine.generate(rid, [2], 400)) for rid in ("job-2", "other", "last")]
        await engine.until(lambda: len(engine.scheduler.requests) == 4)
        duplicate = await engine.generate("job-1", [1], 3)
        assert duplicate.status_code == 400 and duplicate.json()["error"]["param"] == "rid"
        said = {"rid": "job-", "abort_message": "Superseded."}
        assert (await engine.client.post("/abort_request", json=said)).json() == {"aborted": 2}
        assert (await engine.client.post("/abort_request", json={"rid": "other"})).json() == {"aborted": 1}
        assert (await engine.client.post("/abort_request", json={"rid": "other"})).json() == {"aborted": 0}
        assert (await engine.client.post("/abort_request", json={"abort_all": True})).json() == {"aborted": 1}
        reasons = [(await task).json()["meta_info"]["finish_reason"] for task in tasks]
    assert [r["type"] for r in reasons] == ["abort"] * 4
    assert [r["message"] for r in reasons] == ["Superseded.", "Superseded.", "Aborted.", "Aborted."]


@pytest.mark.parametrize("mode", ["abort", "retract", "in_place"])
async def test_pause_and_continue(tmp_path: Path, mode: str) -> None:
    async with served(tmp_path) as engine:
        task = asyncio.create_task(engine.generate("a", [1, 2, 3], 300))
        await engine.until(lambda: engine.scheduler.counts["generated_tokens"] > 5)
        assert (await engine.client.post("/pause_generation", json={"mode": mode})).json()["status"] == "ok"
        held = engine.scheduler.seats.occupied
        flushed = await engine.client.post("/flush_cache")
        later = asyncio.create_task(engine.generate("later", [9], 3))
        await engine.until(lambda: "later" in engine.scheduler.requests)
        assert (await engine.client.post("/continue_generation")).status_code == 200
        answer, second = (await task).json(), (await later).json()
    assert (held, flushed.status_code) == ((1, 400) if mode == "in_place" else (0, 200))
    assert second["output_ids"] == run_alone([9], 3)
    got = answer["output_ids"]
    assert got == run_alone([1, 2, 3], 300)[: len(got)] and (len(got) == 300) == (mode != "abort")
    assert answer["meta_info"]["finish_reason"]["type"] == ("abort" if mode == "abort" else "length")


async def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as engine:
        answer = await engine.client.post("/pause_generation", json={"mode": "sleep"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "mode"


async def test_flush_waits_for_as_long_as_it_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as engine:
        engine.gate.clear()
        task = asyncio.create_task(engine.generate("a", [1, 2, 3], 3))
        await engine.until(lambda: "a" in engine.scheduler.requests)
        flush = asyncio.create_task(engine.client.post("/flush_cache?timeout=20"))
        engine.gate.set()
        assert (await flush).status_code == 200 and (await task).json()["output_ids"] == run_alone([1, 2, 3], 3)
        assert engine.scheduler.ledger.tree.cached[0] == 0
        bad = await engine.client.post("/flush_cache?timeout=soon")
    assert bad.status_code == 400 and bad.json()["error"]["param"] == "timeout"


@pytest.mark.parametrize("bound", [{"queued": 1}, {"queued_tokens": 3}])
async def test_a_full_queue_says_when_to_come_back(tmp_path: Path, bound: dict[str, int]) -> None:
    async with served(tmp_path, rows=1, **bound) as engine:
        await engine.pause()
        tasks = []
        for i in range(2):
            tasks.append(asyncio.create_task(engine.generate(f"r{i}", [1], 2)))
            await engine.until(lambda: len(engine.scheduler.requests) == len(tasks))
        refused = [await engine.generate(f"no{i}", [1, 2], 2, stream=bool(i)) for i in range(2)]
        await engine.client.post("/continue_generation")
        assert [(await task).status_code for task in tasks] == [200, 200]
    for answer in refused:
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"


async def test_a_deadline_cuts_an_answer_and_refuses_one_that_never_began(tmp_path: Path) -> None:
    async with served(tmp_path, rows=1) as engine:
        cut = asyncio.create_task(engine.generate("cut", [1], 500, timeout=1.0))
        await engine.until(lambda: engine.scheduler.counts["generated_tokens"] > 2)
        await engine.pause()  # the loop sleeps, and must wake for the deadlines
        never = asyncio.create_task(engine.generate("never", [2], 500, timeout=0.05))
        first, second = await cut, await never
        bad = await engine.generate("bad", [1], timeout=0)
        await engine.client.post("/continue_generation")
    assert first.json()["meta_info"]["finish_reason"]["type"] == "abort"
    assert first.json()["meta_info"]["finish_reason"]["status_code"] == 504
    assert (second.status_code, second.json()["error"]["code"]) == (504, "timeout")
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "timeout")


async def test_sessions(tmp_path: Path) -> None:
    async with served(tmp_path) as engine:
        opened = (await engine.client.post("/open_session", json={"capacity_of_str_len": 100})).json()
        named = (await engine.client.post("/open_session", json={"session_id": "mine"})).json()
        again = await engine.client.post("/open_session", json={"session_id": "mine"})
        first = (await engine.generate("1", [1, 2], session_params={"id": opened})).json()
        how = {"id": opened, "rid": "1"}
        second = (await engine.generate("2", [3], session_params=how)).json()
        cut = (await engine.generate("3", [4], session_params=how | {"offset": 3})).json()
        other = await engine.generate("4", [1], session_params={"id": "mine", "rid": "1"})
        assert (await engine.client.post("/close_session", json={"session_id": opened})).status_code == 200
        closed = await engine.generate("5", [1], session_params={"id": opened})
        gone = await engine.client.post("/close_session", json={"session_id": opened})
    assert named == "mine" and again.status_code == 400
    assert first["output_ids"] == run_alone([1, 2], 4)
    assert second["output_ids"] == run_alone([1, 2, *first["output_ids"], 3], 4)
    assert second["meta_info"]["prompt_tokens"] == 7
    assert cut["output_ids"] == run_alone([1, 2, first["output_ids"][0], 4], 4)
    for answer, code in (
        (other, "session_request_not_found"),
        (closed, "session_not_found"),
        (gone, "session_not_found"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


async def test_a_priority_takes_a_seat(tmp_path: Path) -> None:
    async with served(tmp_path, rows=1, priority=PriorityRules(enabled=True)) as engine:
        low = asyncio.create_task(engine.generate("low", [1], 500, priority=0))
        await engine.until(lambda: engine.scheduler.counts["generated_tokens"] > 3)
        high = await engine.generate("high", [2], 3, priority=10)
        answer = await low
    assert high.json()["output_ids"] == run_alone([2], 3)
    assert answer.json()["output_ids"] == run_alone([1], 500)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_the_openai_dialect_has_priority_timeout_and_sessions(path: str) -> None:
    text = tiny_text()
    engine = ScriptedEngine(lambda r: [[output(r, [5])]])
    prompt = {"messages": [{"role": "user", "content": "a"}]} if "chat" in path else {"prompt": "a"}
    session = {"id": "s", "rid": "r", "offset": 2, "replace": True, "drop_previous_output": True}
    async with http_client(server_context(engine, text)) as client:
        fields = {"priority": -7, "timeout": 2.5, "session_params": session}
        await client.post(path, json=prompt | fields)
        bad = await client.post(path, json=prompt | {"priority": 2**40})
    (asked,) = engine.requests
    assert (asked.priority, asked.timeout) == (-7, 2.5)
    assert asked.session == SessionParams(**session)
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "priority")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_branch_cut_by_a_stop_string_is_ended_in_the_engine_at_once(stream: bool) -> None:
    text = tiny_text()
    words = text.encode("ab")

    class Ending(ScriptedEngine):
        cut: list[tuple[str, int, int]]

        def end_branch(self, rid: str, branch: int) -> None:
            self.cut.append((rid, branch, len(self.requests)))
            self.released.set()

    def script(request: Any) -> list[Any]:
        first = [output(request, words, 0), output(request, text.encode("c"), 1)]
        return [first, HANG, [output(request, text.encode("d"), 1)]]

    engine = Ending(script)
    engine.cut = []
    body = {"text": "x", "stream": stream, "sampling_params": {"n": 2, "stop": "b", "max_new_tokens": 50}}
    async with http_client(server_context(engine, text)) as client:
        answer = await client.post("/generate", json=body)
    rid = engine.requests[0].rid
    assert engine.cut == [(rid, 0, 1)]  # HANG would have held it for ever else
    if stream:
        assert any(e.get("index") == 0 for e in events(answer.content) if "error" not in e)


async def test_end_branch_frees_the_row_while_the_others_go_on(tmp_path: Path) -> None:
    async with served(tmp_path) as engine:
        task = asyncio.create_task(engine.generate("a", [1, 2, 3], 480, n=3))
        await engine.until(lambda: engine.scheduler.running == 3)
        client = engine.client._transport.app.state.context.engine  # type: ignore[attr-defined]
        client.end_branch("a", 1)
        await engine.until(lambda: engine.scheduler.running < 3)
        answers = (await task).json()
    assert [a["meta_info"]["finish_reason"]["type"] for a in answers] == ["length", "abort", "length"]
    assert answers[0]["output_ids"] == answers[2]["output_ids"] == run_alone([1, 2, 3], 480)
