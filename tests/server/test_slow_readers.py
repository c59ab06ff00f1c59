"""Readers that do not read, while others do: nothing is lost, what waits is bounded, and nobody else notices."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from server.scripted import server_context, tiny_text
from sglcore.engine.client import ZmqClient
from sglcore.request import RequestOutput, SamplingParams
from sglcore.server import build_app
from sglcore.server.run import build_server
from sglcore.text.backlog import LIMIT
from sglcore.text.branch_text import BranchText

pytestmark = pytest.mark.asyncio
FRONT = Path(__file__).parents[2] / "benchmarks" / "front"
TEXT = tiny_text()
BUFFER = 16 << 10  # bytes of the kernel's, so that a reader that stops is felt soon
SECONDS = 60.0
RATE = 1000.0


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in engine and the clients of the benchmark."""
    monkeypatch.syspath_prepend(str(FRONT))
    found: dict[str, ModuleType] = {}
    for name in ("stand_in", "streams"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        found[name] = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
    return SimpleNamespace(**found)


@asynccontextmanager
async def serving(front: Any, address: str) -> AsyncIterator[tuple[int, Any, ZmqClient]]:
    """A server before a stand-in engine, in this process: its port, the engine, and the client between them."""
    letters = [TEXT.encode(letter)[0] for letter in front.stand_in.LETTERS]
    engine, client = front.stand_in.StandIn(address, letters), ZmqClient(address)
    reading = asyncio.create_task(engine.read())
    context = server_context(client, TEXT, model={"name": "demo", "context_length": 100_000})  # type: ignore[arg-type]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    server = build_server(build_app(context), context.config)
    running = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield sock.getsockname()[1], engine, client
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait_for(running, SECONDS)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await client.close()
        engine.close()


async def opened(front: Any, port: int, name: str, tokens: int, *, reads: bool) -> Any:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    body = front.streams.chat_body(name, tokens)
    transport, stream = await loop.create_connection(
        lambda: front.streams.Stream("/v1/chat/completions", body), sock=sock
    )
    if not reads:
        transport.pause_reading()
    return transport, stream


async def test_slow_readers_get_every_token_later_and_fast_ones_at_once(front: Any, tmp_path: Path) -> None:
    tokens = 2000
    async with serving(front, f"ipc://{tmp_path}/engine") as (port, engine, client):
        fast = [await opened(front, port, f"f{i}", tokens, reads=True) for i in range(6)]
        slow = [await opened(front, port, f"s{i}", tokens, reads=False) for i in range(3)]
        async with asyncio.timeout(SECONDS):
            while len(engine.rows) < 9:
                await asyncio.sleep(0)
            await engine.run(RATE)
            await asyncio.gather(*(stream.done for _, stream in fast))
        waiting = [stream.backlog for stream in client._streams.values()]
        assert len(waiting) == 3, "the slow ones, and they alone, are still open"
        assert all(len(backlog) <= LIMIT for backlog in waiting)
        assert all(sum(len(out.token_ids) for out in backlog._outputs) > LIMIT for backlog in waiting)
        for transport, _ in slow:
            transport.resume_reading()
        await asyncio.wait_for(asyncio.gather(*(stream.done for _, stream in slow)), SECONDS)
        assert engine.aborts == 0 and not client._streams
    letters = front.stand_in.LETTERS
    whole = (letters * (tokens // len(letters) + 1))[:tokens].encode()
    assert all(bytes(stream.text) == whole for _, stream in [*fast, *slow])
    assert all(len(stream.chunks) < tokens for _, stream in slow), "what waited came in fewer chunks"


async def test_a_reader_that_leaves_without_having_read_is_aborted(front: Any, tmp_path: Path) -> None:
    async with serving(front, f"ipc://{tmp_path}/engine") as (port, engine, client):
        transport, _ = await opened(front, port, "gone", 50_000, reads=False)
        async with asyncio.timeout(SECONDS):
            while not engine.rows:
                await asyncio.sleep(0)
            running = asyncio.create_task(engine.run(RATE))
            while not client._streams["gone"].backlog:
                await asyncio.sleep(0)
            transport.abort()
            while not engine.aborts:
                await asyncio.sleep(0)
            await running
        assert not client._streams


async def test_many_outputs_at_once_make_one_piece(front: Any) -> None:
    branch = BranchText(0, 0, TEXT, SamplingParams(max_new_tokens=50, stop=("jkl",)), 1)
    ids = [TEXT.encode(letter)[0] for letter in front.stand_in.LETTERS]
    pieces = [branch.advance(RequestOutput("r", 0, [token]), more=i < len(ids) - 1) for i, token in enumerate(ids)]
    (piece,) = [piece for piece in pieces if piece is not None]
    assert piece.text == "abcdefghi" and piece.finish is not None and piece.finish.matched == "jkl"
