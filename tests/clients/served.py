"""What the clients of this folder are tried on: `sglcore serve` with a model that says what these lines tell it to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
from sglcore_plugin_scripted_model.checkpoint import Say, write
from sglcore_plugin_scripted_model.script import POSITIONS

from e2e.server import Server, running

KEY = "k-1"
HEADERS = {"Authorization": f"Bearer {KEY}"}
NAME = "scripted"
HELLO = "Hello there. Été à Zürich 🎉"
THOUGHT = "Which city?"
LOOK = "Let me look."
FINAL = "It is 12 degrees in Zürich."
STORY = " a time, there was a server."
CITY = {"city": "Zürich 🎉"}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich 🎉"}}\n</tool_call>'
NOW_CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
LINES = (
    Say(HELLO),
    Say(f"<think>\n{THOUGHT}\n</think>\n\n{LOOK}\n{CALL}\n{NOW_CALL}", after="Weather?"),
    Say(CALL, after="Only one."),
    Say("The clock shows noon.", after="Is it noon"),
    Say(FINAL, after="</tool_response>"),
    Say("one ", after="Count", loop=True),
    Say(STORY, after="Once upon", at_once=True),
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW: dict[str, Any] = {
    "type": "function",
    "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
}
# Threads that wait for each other in steps as small as these wait most of the time where cores are busy.
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
ABORTED = 8.0  # seconds within which a request that was left is gone
FLAGS = (
    *("--port", "0", "--served-model-name", NAME, "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"),
    *("--attention-backend", "torch"),
)


@contextmanager
def scripted(folder: Path, *flags: str) -> Iterator[Server]:
    """The server, with a key, and with two API workers unless the flags say otherwise."""
    write(folder, LINES, context=POSITIONS)
    workers = () if "--api-workers" in flags else ("--api-workers", "2")
    with running(str(folder), *FLAGS, "--api-key", KEY, *workers, *flags, environment=ONE_THREAD) as server:
        yield server


def user(text: str) -> list[Any]:
    """Messages: one of the user's."""
    return [{"role": "user", "content": text}]


def tokens(text: str) -> int:
    """Tokens of an answer: its bytes, and the end."""
    return len(text.encode()) + 1


def until(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for it; AssertionError where it does not come."""
    limit = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < limit
        Event().wait(0.02)
    return found


def busy(server: Server) -> int:
    """Requests that the engine has, running or waiting."""
    loads = httpx.get(f"{server.url}/v1/loads", headers=HEADERS, timeout=30).json()["loads"]
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)


@contextmanager
def expect_abort(server: Server) -> Iterator[None]:
    """The block begins an answer to `Count` and leaves it: the engine is idle soon after.

    By itself the answer would go on for as long as the context lets it, several times the wait.
    """
    yield
    until(lambda: busy(server) == 0, ABORTED)
