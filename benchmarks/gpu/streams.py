"""Clients that stream answers of `/generate`, each in a process of its own, so that it takes nothing from the server.

`Clients` starts some, gives each its share of the requests, lets them go together, and gathers what they saw. A client
reads as little as it can: it notes when events came, and decodes only the last one of an answer. It speaks HTTP/1.1 on
plain asyncio, one connection a request (on uvloop where it is installed).
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, cast

from figures import Stream

MARK = b"data: {"
CONNECTING = 64  # connections being opened at once: a listening socket's queue is short
LIMIT = 240.0  # seconds that all answers of a client may take
BUSY = 0.7  # share of a core above which a client may be what is measured


def request_bytes(prompt: list[int], new: int) -> bytes:
    """A whole request, greedy and past the end token."""
    sampling = {"max_new_tokens": new, "temperature": 0, "ignore_eos": True}
    body = json.dumps({"input_ids": prompt, "sampling_params": sampling, "stream": True}).encode()
    head = "POST /generate HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


class Answer(asyncio.Protocol):
    """One request's connection; `done` ends with a Stream, or with RuntimeError and what the server said."""

    def __init__(self, request: bytes, done: asyncio.Future[Stream]) -> None:
        self._request, self._done = request, done
        self._sent = self._first = self._last = 0.0
        self._events = 0
        self._tail: list[bytes] = []  # from the chunk with the last event's beginning on

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sent = time.monotonic()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        found = data.count(MARK)
        if not found:
            self._tail.append(data)
            return
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._events += found
        self._tail = [data]

    def connection_lost(self, error: Exception | None) -> None:
        if self._done.done():
            return
        try:
            self._done.set_result(self._read())
        except (ValueError, KeyError) as problem:
            said = b"".join(self._tail)[-500:].decode(errors="replace")
            self._done.set_exception(RuntimeError(f"no whole answer ({problem!r}, {error}): {said}"))

    def _read(self) -> Stream:
        text = b"".join(self._tail)
        start = text.rindex(MARK) + len(MARK) - 1
        told = json.loads(text[start : text.index(b"\n\n", start)])["meta_info"]
        if told["finish_reason"] is None:
            raise ValueError("it ended early")
        tokens, cached = told["completion_tokens"], told.get("cached_tokens", 0)
        return Stream(self._sent, self._first, self._last, tokens, self._events, cached)


async def ask_all(address: tuple[str, int], requests: list[bytes], at_once: int | None = None) -> list[Stream]:
    """All answers, at most `at_once` of them open at a time."""
    loop = asyncio.get_running_loop()
    opening = asyncio.Semaphore(CONNECTING)
    open_ones = asyncio.Semaphore(at_once or len(requests))

    async def ask(request: bytes) -> Stream:
        done: asyncio.Future[Stream] = loop.create_future()
        async with open_ones:
            async with opening:
                await loop.create_connection(lambda: Answer(request, done), *address)
            return await done

    async with asyncio.timeout(LIMIT):
        return list(await asyncio.gather(*map(ask, requests)))


def ask_now(address: tuple[str, int], prompts: list[list[int]], new: int) -> list[Stream]:
    """All answers, from this process."""
    return asyncio.run(ask_all(address, [request_bytes(prompt, new) for prompt in prompts]))


def raise_file_limit() -> None:
    """As many open files as this user may have, here and in what is started from here: a connection is a file."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Clients:
    """`count` processes that hold the requests ready; `go` lets them ask."""

    def __init__(self, prompts: list[list[int]], new: int, count: int = 1, at_once: int | None = None) -> None:
        pipe = subprocess.PIPE
        count = min(count, len(prompts))
        self._processes = [
            subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True) for _ in range(count)
        ]
        for number, process in enumerate(self._processes):
            share = {"prompts": prompts[number::count], "new": new, "at_once": at_once and -(-at_once // count)}
            self._tell(process, json.dumps(share))
        for process in self._processes:
            self._hear(process)  # it has read all

    def go(self, address: tuple[str, int]) -> tuple[list[Stream], float]:
        """(the answers, the busiest client's share of a core). Raises RuntimeError for what a client could not do."""
        for process in self._processes:
            self._tell(process, json.dumps(address))
        told = [json.loads(self._hear(process)) for process in self._processes]
        self.close()
        if errors := [one["error"] for one in told if "error" in one]:
            raise RuntimeError(errors[0])
        streams = [Stream(*row) for one in told for row in one["streams"]]
        return streams, round(max(one["cpu_s"] / one["wall_s"] for one in told), 3)

    def close(self) -> None:
        """End them all."""
        for process in self._processes:
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout):
                if end is not None:
                    end.close()

    def _tell(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()

    def _hear(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError("a client ended without an answer")
        return line


def client() -> None:
    """The process: a line of requests, "ready"; a line with the address, the answers."""
    share = json.loads(sys.stdin.readline())
    requests = [request_bytes(prompt, share["new"]) for prompt in share["prompts"]]
    with suppress(ImportError):
        import uvloop

        uvloop.install()
    print("ready", flush=True)
    host, port = json.loads(sys.stdin.readline())
    told: dict[str, Any]
    try:
        begin, used = time.monotonic(), time.process_time()
        streams = asyncio.run(ask_all((host, port), requests, share["at_once"]))
        told = {"cpu_s": time.process_time() - used, "wall_s": time.monotonic() - begin}
        told["streams"] = [[s.sent, s.first, s.last, s.tokens, s.events, s.cached] for s in streams]
    except (OSError, RuntimeError, TimeoutError) as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    client()
