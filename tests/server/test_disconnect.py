"""A client that leaves takes its request with it, before and amid the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from server.scripted import HANG, ScriptedEngine, output, server_context, tiny_text
from sglcore.server import build_app

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"prompt": "hello"},
    "/generate": {"text": "hello"},
}


class Connection:
    """One ASGI call whose client leaves when told to."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self.scope: dict[str, Any] = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "POST", "path": path}
        self.scope |= {"headers": [], "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
        self._body: bytes | None = json.dumps(body).encode()
        self.left = asyncio.Event()
        self.first_chunk = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message.get("body"):
            self.first_chunk.set()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_while_the_engine_works(path: str, stream: bool) -> None:
    engine = ScriptedEngine(lambda r: [HANG])
    connection = Connection(path, BODIES[path] | {"stream": stream, "rid": "r"})
    app = build_app(server_context(engine, TEXT))
    call = asyncio.ensure_future(app(connection.scope, connection.receive, connection.send))
    await engine.hanging.wait()
    assert engine.left == []
    connection.left.set()
    await asyncio.wait_for(engine.gone.wait(), 5)
    await asyncio.wait_for(call, 5)
    assert engine.left == ["r"]


@pytest.mark.parametrize("path", BODIES)
async def test_leaving_amid_a_stream(path: str) -> None:
    ids = TEXT.encode("hello")
    engine = ScriptedEngine(lambda r: [[output(r, ids)], HANG])
    connection = Connection(path, BODIES[path] | {"stream": True, "rid": "r"})
    app = build_app(server_context(engine, TEXT))
    call = asyncio.ensure_future(app(connection.scope, connection.receive, connection.send))
    await asyncio.wait_for(connection.first_chunk.wait(), 5)
    await engine.hanging.wait()
    connection.left.set()
    await asyncio.wait_for(call, 5)
    assert engine.left == ["r"]
    assert b"[DONE]" not in b"".join(m.get("body", b"") for m in connection.sent)


async def test_leaving_a_batch_aborts_every_prompt() -> None:
    engine = ScriptedEngine(lambda r: [HANG])
    connection = Connection("/generate", {"text": ["a", "b", "c"], "rid": "r"})
    app = build_app(server_context(engine, TEXT))
    call = asyncio.ensure_future(app(connection.scope, connection.receive, connection.send))
    while len(engine.requests) < 3:
        await asyncio.sleep(0)
    await engine.hanging.wait()
    connection.left.set()
    await asyncio.wait_for(call, 5)
    assert sorted(engine.left) == ["r_0", "r_1", "r_2"]


async def test_a_rid_is_free_again_after_its_client_left() -> None:
    engine = ScriptedEngine(lambda r: [HANG])
    app = build_app(server_context(engine, TEXT))
    for _ in range(2):
        engine.hanging.clear()
        connection = Connection("/generate", {"text": "a", "rid": "r"})
        call = asyncio.ensure_future(app(connection.scope, connection.receive, connection.send))
        await asyncio.wait_for(engine.hanging.wait(), 5)
        connection.left.set()
        await asyncio.wait_for(call, 5)
    assert engine.left == ["r", "r"]
