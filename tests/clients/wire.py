"""One HTTP exchange by a plain socket: nothing between the test and what goes over the wire."""

from __future__ import annotations

import re
import socket
from typing import Any
from urllib.parse import urlsplit

import msgspec

TIMEOUT = 30.0
# What differs from run to run: ids, times, and the headers that hold them.
MASKS = (
    (rb"\b(chatcmpl|cmpl|resp|msg|rs|fc|call|req)([-_])[0-9a-f]{24,48}\b", rb"\1\2*"),
    (rb'"(created|created_at|completed_at)":\d+', rb'"\1":0'),
    (rb'"(e2e_latency|[a-z_]+_ts|[a-z_]+_time)":[0-9.e+-]+', rb'"\1":0'),
    (rb'"id":"[0-9a-f]{32}((?:_[0-9]+)?)"', rb'"id":"*\1"'),
    (rb"(?mi)^(date|content-length|x-request-id|traceparent): [^\r\n]*", rb"\1: *"),
)


def exchange(url: str, path: str, body: Any) -> bytes:
    """The answer to a POST of `body` as JSON: status line, headers, an empty line, the content of the chunks.

    AssertionError where a chunk ends in the middle of an event, or the length is another than was told.
    """
    where = urlsplit(url)
    content = msgspec.json.encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((where.hostname or "", where.port or 80), TIMEOUT) as connection:
        connection.sendall(head.encode() + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    headers, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in headers.lower():
        rest = b"".join(chunks(rest))
    else:
        told = re.search(rb"(?i)\r\ncontent-length: (\d+)", headers)
        assert told is not None and int(told[1]) == len(rest)
    return headers + b"\r\n\r\n" + rest


def chunks(rest: bytes) -> list[bytes]:
    """The chunks of a chunked body, each of whole events."""
    found: list[bytes] = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        chunk, end, rest = rest[:length], rest[length : length + 2], rest[length + 2 :]
        assert end == b"\r\n"
        if not length:
            assert rest == b"", "something follows the last chunk"
            return found
        assert chunk.endswith(b"\n\n"), f"a chunk ends within an event: {chunk[-80:]!r}"
        found.append(chunk)


def masked(answer: bytes) -> bytes:
    """An answer without what differs from run to run."""
    for pattern, mark in MASKS:
        answer = re.sub(pattern, mark, answer)
    return answer
