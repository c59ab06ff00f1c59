"""Heads that are too large, too many or too slow, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.server import build_app
from sglcore.server.head_bounds import MAX_HEAD, MAX_HEADERS
from sglcore.server.run import build_server, listen
from sglcore.server_config import ServerConfig

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    config = ServerConfig(model_path="org/tiny-model", port=0)
    server = build_server(build_app(server_context(ScriptedEngine(says(TEXT, "x")), TEXT)), config)
    sock = listen(config)
    task = asyncio.create_task(server._serve([sock]))  # without uvicorn's hold on this process's signals
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)
        sock.close()


async def said(port: int, *parts: bytes) -> tuple[int, bytes]:
    """Status and body of what comes back to these bytes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


START = b"GET /health HTTP/1.1\r\nHost: x\r\n"
END = b"Connection: close\r\n\r\n"


async def test_an_ordinary_head_is_taken() -> None:
    async with listening() as port:
        assert (await said(port, START, END))[0] == 200
        assert (await said(port, START + b"X: " + b"x" * (MAX_HEAD // 2) + b"\r\n" + END))[0] == 200


@pytest.mark.parametrize(
    "parts",
    [
        (START, b"X: ", b"x" * (MAX_HEAD + 1)),
        (START, b"X: ", *[b"x" * 4096] * 20),
        (START, b"x" * (MAX_HEAD + 1)),
        (START + b"X: " + b"x" * (MAX_HEAD + 1) + b"\r\n" + END,),
        (START + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(70)) + END,),
        (START + b"X: y\r\n" * (MAX_HEADERS + 1) + END,),
        (b"GET /health?" + b"x" * (MAX_HEAD + 1) + b" HTTP/1.1\r\nHost: x\r\n" + END,),
        (b"GET /health?" + b"x" * (MAX_HEAD + 1),),
    ],
    ids=[
        "endless value",
        "in pieces",
        "endless name",
        "whole",
        "many long ones",
        "too many",
        "long url",
        "endless url",
    ],
)
async def test_a_head_that_is_too_large_is_told_so(parts: tuple[bytes, ...]) -> None:
    async with listening() as port:
        status, body = await said(port, *parts)
        assert (status, json.loads(body)["error"]["type"]) == (431, "invalid_request_error")
        assert (await said(port, START, END))[0] == 200  # others go on


async def test_a_head_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglcore.server.head_bounds.HEAD_SECONDS", 0.1)
    async with listening() as port:
        assert (await said(port, b"GET /health HTTP/1.1\r\nX-Slow: "))[0] == 408


async def test_what_is_no_http_is_refused() -> None:
    async with listening() as port:
        status, body = await said(port, b"\x16\x03\x01 hello\r\n\r\n")
    assert status == 400 and json.loads(body)["error"]["message"]


async def test_endless_trailers_are_refused() -> None:
    start = b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    async with listening() as port:
        assert (await said(port, start, *[b"X: y\r\n"] * (MAX_HEADERS + 10)))[0] == 431
