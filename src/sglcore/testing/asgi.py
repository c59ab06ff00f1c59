"""One request to an ASGI application in this process, without a client library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[
    [dict[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
LIMIT = 60.0  # seconds until a request that is not answered is given up


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body; ValueError where it is no JSON."""
        return json.loads(self.body)

    @property
    def is_json(self) -> bool:
        """Whether it says that it is JSON, and is."""
        try:
            self.json()
        except ValueError:
            return False
        return self.headers.get("content-type", "").partition(";")[0].strip() == "application/json"


def ask(app: Any, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    """Send one request and gather its answer. Raises whatever leaves the application, TimeoutError if nothing comes."""
    return asyncio.run(asyncio.wait_for(_ask(app, method, path, body, headers or {}), LIMIT))


async def _ask(app: App, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    sent = {"host": "test", "content-type": "application/json", "content-length": str(len(body)), **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    asked = [{"type": "http.request", "body": body, "more_body": False}]
    got: list[Message] = []
    answered = asyncio.Event()

    async def receive() -> Message:
        if asked:
            return asked.pop()
        await answered.wait()  # a client that waits for the answer, then goes
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        got.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    await app(scope, receive, send)
    assert got and got[0]["type"] == "http.response.start", f"{method} {path} is not answered"
    pairs = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in got[0].get("headers", ())}
    return Answer(got[0]["status"], pairs, b"".join(message.get("body", b"") for message in got[1:]))
