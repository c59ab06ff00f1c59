"""Dumps of requests: what is kept, where, what never is; crash dumps; the metrics file; the thread that writes."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from server.client import http_client
from server.scripted import HANG, ScriptedEngine, output, says, server_context, tiny_text
from sglcore.bench.replay import body_again, files_of, read_dumps
from sglcore.errors import ConfigError
from sglcore.server import dump
from sglcore.server.context import ServerContext
from sglcore.server.dump import Recent, body_of
from sglcore.server.observed import CrashWitness
from sglcore.server.side_writer import SideWriter

TEXT = tiny_text()
ANSWER = "hello world"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


def context_of(**config: Any) -> ServerContext:
    return server_context(ScriptedEngine(says(TEXT, ANSWER)), TEXT, **config)


def lines_in(context: ServerContext, folder: Path) -> list[dict[str, Any]]:
    context.face.observed.close()
    files = sorted(folder.glob("*.jsonl"), key=lambda file: int(file.stem.rpartition("-")[2]))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.asyncio
async def test_requests_are_kept_with_body_and_answer_and_without_keys(tmp_path: Path) -> None:
    context = context_of(dump_requests_folder=str(tmp_path), api_key="sk-header")
    headers = {"Authorization": "Bearer sk-header", "x-request-id": "d-1"}
    async with http_client(context) as client:
        body = {**CHAT, "api_key": "sk-body", "metadata": {"Authorization": "sk-deep"}}
        assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
        await client.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers)
    first, second = lines_in(context, tmp_path)
    assert (first["path"], first["status"], first["request_id"]) == ("/v1/chat/completions", 200, "d-1")
    assert first["body"]["messages"] == CHAT["messages"]
    assert first["body"]["api_key"] == first["body"]["metadata"]["Authorization"] == "***"
    assert "sk-" not in json.dumps([first, second])
    (answer,) = second["answers"]
    assert answer["text"] == ANSWER and answer["finish"] == "stop" and second["seconds"] > 0


@pytest.mark.asyncio
async def test_what_asked_the_engine_for_nothing_is_not_kept(tmp_path: Path) -> None:
    context = context_of(dump_requests_folder=str(tmp_path))
    async with http_client(context) as client:
        await client.post("/v1/completions", json={"prompt": 7})
        await client.post("/v1/completions", content=b"{")
        await client.post("/configure_logging", json={"log_requests": False})
        await client.post("/tokenize", json={"prompt": "a"})
        await client.get("/v1/models")
    assert lines_in(context, tmp_path) == []


@pytest.mark.asyncio
async def test_several_prompts_and_branches_are_one_line(tmp_path: Path) -> None:
    context = context_of(dump_requests_folder=str(tmp_path))
    async with http_client(context) as client:
        await client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 2, "max_tokens": 50})
    (line,) = lines_in(context, tmp_path)
    assert [answer["texts"] for answer in line["answers"]] == [[ANSWER, ANSWER]] * 2


@pytest.mark.asyncio
async def test_files_hold_no_more_than_the_threshold_and_the_folder_can_be_changed(tmp_path: Path) -> None:
    context = context_of(dump_requests_folder=str(tmp_path), dump_requests_threshold=2)
    async with http_client(context) as client:
        for _ in range(5):
            await client.post("/v1/completions", json={"prompt": "a"})
        await client.post("/configure_logging", json={"dump_requests_folder": "sub"})
        await client.post("/v1/completions", json={"prompt": "b"})
        await client.post("/configure_logging", json={"dump_requests_folder": ""})
        await client.post("/v1/completions", json={"prompt": "c"})
    assert len(lines_in(context, tmp_path)) == 5
    assert sorted(len(file.read_text().splitlines()) for file in tmp_path.glob("*.jsonl")) == [1, 2, 2]
    (below,) = (tmp_path / "sub").glob("*.jsonl")
    assert [json.loads(line)["body"]["prompt"] for line in below.read_text().splitlines()] == ["b"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.rglob("*"))


@pytest.mark.asyncio
async def test_a_client_that_leaves_is_kept_as_aborted(tmp_path: Path) -> None:
    context = context_of(dump_requests_folder=str(tmp_path))
    engine: Any = context.engine
    engine.script = lambda request: [[output(request, [TEXT.encode("hello")[0]])], HANG]
    async with http_client(context) as client:
        asking = asyncio.create_task(client.post("/v1/completions", json={"prompt": "a"}))
        await asyncio.wait_for(engine.hanging.wait(), 10)
        asking.cancel()
        await asyncio.wait([asking], timeout=10)
    (line,) = lines_in(context, tmp_path)
    assert line["status"] == 0 and [answer["finish"] for answer in line["answers"]] == ["abort"]


class Client:
    def __init__(self) -> None:
        self.suspended = 0

    def suspend(self) -> None:
        self.suspended += 1

    from_thread = resume = fail = lambda self, *_: None


@pytest.mark.asyncio
async def test_the_last_requests_and_the_open_ones_are_written_when_the_engine_dies(tmp_path: Path) -> None:
    context = context_of(crash_dump_folder=str(tmp_path))
    engine: Any = context.engine
    async with http_client(context) as client:
        await client.post("/v1/completions", json={"prompt": "done"})
        assert list(tmp_path.iterdir()) == []
        engine.script = lambda request: [HANG, *says(TEXT, ANSWER)(request)]
        open_one = asyncio.create_task(client.post("/v1/completions", json={"prompt": "open"}))
        await asyncio.wait_for(engine.hanging.wait(), 10)
        witness: Any = CrashWitness(Client(), context.face.observed.dumps.crashed)  # type: ignore[arg-type]
        witness.suspend()
        assert context.face.observed._writer.flush()
        engine.released.set()
        await asyncio.wait_for(open_one, 10)
    (file,) = tmp_path.iterdir()
    done, still = (json.loads(line) for line in file.read_text().splitlines())
    assert done["body"]["prompt"] == "done" and done["status"] == 200
    assert still["body"]["prompt"] == "open" and "status" not in still
    assert [len(read_dumps([file])), len(files_of(tmp_path))] == [2, 1]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    recent, now = Recent(), [0.0]
    monkeypatch.setattr(dump.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(dump, "KEPT_BYTES", 10)
    for line in (b"aaaa", b"bbbb", b"cccc"):
        recent.add(line)
    assert recent.lines() == [b"bbbb", b"cccc"]
    now[0] = dump.KEPT_SECONDS + 1
    recent.add(b"d")
    assert recent.lines() == [b"d"]


def test_a_tools_field_that_is_called_like_a_key_stays() -> None:
    tools = b'{"tools":[{"function":{"parameters":{"properties":{"api_key":{"type":"string"}}}}}]}'
    assert json.dumps(body_of(tools), separators=(",", ":")).encode() == tools


def test_bodies_that_are_no_json_are_text() -> None:
    assert body_of(b"{") == "{" and body_of(b"\xff") == "\ufffd" and body_of(b"[" * 100_000).startswith("[[")


# -- the metrics file --


@pytest.mark.asyncio
async def test_metrics_of_each_request_go_to_a_file_without_its_text(tmp_path: Path) -> None:
    context = context_of(
        export_metrics_to_file=True,
        export_metrics_to_file_dir=str(tmp_path / "m"),
        tokenizer_metrics_allowed_custom_labels=("team",),
    )
    async with http_client(context) as client:
        body = {"prompt": "the lazy dog", "stop": ["Zebra"], "max_tokens": 50}
        await client.post("/v1/completions", json=body, headers={"x-custom-labels": '{"team": "search"}'})
    context.face.observed.close()
    (file,) = (tmp_path / "m").iterdir()
    (line,) = (json.loads(one) for one in file.read_text().splitlines())
    assert line["labels"] == {"team": "search"} and line["finish_reasons"] == ["stop"] and line["model"] == "tiny"
    assert line["time_to_first_token"] <= line["e2e_latency"] and line["inter_token_latency"] > 0
    assert line["sampling_params"]["max_new_tokens"] == 50
    assert not any(word in json.dumps(line) for word in ("lazy", "Zebra", ANSWER))


# -- the writer --


def test_work_is_done_in_order_and_failures_do_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    writer, done = SideWriter(), []

    def fail() -> None:
        raise OSError("disk full")

    for i in range(100):
        writer.put(fail if i % 10 == 0 else lambda i=i: done.append(i))  # type: ignore[misc]
    writer.close()
    writer.close()
    assert done == [i for i in range(100) if i % 10] and writer.failed == 10
    assert caplog.text.count("disk full") == 1, "told once, not each time"


def test_a_disk_that_does_not_keep_up_costs_lines_and_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    writer, begun, gate, done = SideWriter(waiting=5), threading.Event(), threading.Event(), []

    def wait() -> None:
        begun.set()
        gate.wait(10)

    writer.put(wait)
    assert begun.wait(10)
    taken = sum(writer.put(lambda: done.append(1)) for _ in range(100))
    assert taken == 5 and writer.dropped == 95
    gate.set()
    writer.close()
    assert len(done) == taken and "dropped" in caplog.text


# -- what replay reads --


def test_a_line_that_is_no_dump_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for bad in ("{", '{"path": 1, "body": {}}', '{"path": "//evil/x", "body": {}}', '{"path": "x", "body": {}}'):
        file.write_text('{"path": "/generate", "body": {}}\n\n' + bad + "\n")
        with pytest.raises(ConfigError, match="line 3"):
            read_dumps([file])
    with pytest.raises(ConfigError, match="no dump"):
        files_of(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_dumps([tmp_path / "none"])


def test_ids_are_not_sent_again_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"path": "/generate", "body": {"rid": "x", "text": "b"}, "at": 2}\n'
        '{"path": "/generate", "body": {"text":  "a"}, "at": 1}\n'
    )
    first, second = read_dumps([file])
    assert body_again(first.body) == b'{"text":  "a"}' and json.loads(body_again(second.body)) == {"text": "b"}
