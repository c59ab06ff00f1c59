"""The clients of front.py: raw connections that note when each chunk of a stream came, and how many tokens it held."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec

CONTENT = re.compile(rb'"content":"([a-z]+)"')


class Stream(asyncio.Protocol):
    """One POST and its answer. chunks: (monotonic time, letters) of each event with text."""

    def __init__(self, path: str, body: bytes, on_token: Callable[[int], None] | None = None) -> None:
        self.chunks: list[tuple[float, int]] = []
        self.text = bytearray()
        self.read = 0  # bytes
        self.done = asyncio.get_running_loop().create_future()
        self._on_token = on_token
        self._tail = b""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self._ask = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def connection_made(self, transport: Any) -> None:
        transport.write(self._ask)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self.read += len(data)
        data = self._tail + data
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._tail = data
            return
        self._tail = data[end:]
        found = CONTENT.findall(data, 0, end)
        for letters in found:
            self.chunks.append((now, len(letters)))
            self.text += letters
        if found and self._on_token is not None:
            self._on_token(sum(map(len, found)))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Drain(asyncio.Protocol):
    """One POST whose answer is counted in bytes alone."""

    def __init__(self, path: str, body: bytes) -> None:
        self.read = 0
        self.done = asyncio.get_running_loop().create_future()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self._ask = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def connection_made(self, transport: Any) -> None:
        transport.write(self._ask)

    def data_received(self, data: bytes) -> None:
        self.read += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def chat_body(rid: str, tokens: int) -> bytes:
    """A streamed chat request with stop strings."""
    return msgspec.json.encode(
        {
            "model": "demo",
            "rid": rid,
            "messages": [{"role": "user", "content": "Tell me something long."}],
            "stream": True,
            "max_tokens": tokens,
            "temperature": 0,
            "stop": ["</answer>", "\n\nHuman:", "<|end|>"],
        }
    )
