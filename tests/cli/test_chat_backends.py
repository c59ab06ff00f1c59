"""The two backends of the chat: a real HTTP server with scripted answers, and a stand-in for the engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sglcore.cli.chat_backends import LocalBackend, Piece, RemoteBackend
from sglcore.errors import ConfigError, RequestError

HELLO = [{"role": "user", "content": "Hi"}]


class Scripted(BaseHTTPRequestHandler):
    """Answers /v1/models, and chat completions with the server's script."""

    server: Any

    def do_GET(self) -> None:
        self._answer(200, json.dumps({"data": [{"id": "tiny"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        status, content = self.server.script
        self._answer(status, content)

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as found:
        found.seen = []  # type: ignore[attr-defined]
        found.url = f"http://127.0.0.1:{found.server_port}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def events(*contents: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(c)}\n\n" for c in contents] + (["data: [DONE]\n\n"] if done else [])
    return (": a comment\n\n" + "".join(lines)).encode()


def delta(text: str, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}], **more}


def test_remote_reply(server: Any) -> None:
    usage = {"usage": {"completion_tokens": 7}}
    server.script = (200, events(delta(""), delta("Hé"), delta("llo"), {"choices": [], **usage}))
    backend = RemoteBackend(server.url, "", "secret", {"max_new_tokens": 5, "top_k": 3})
    assert backend.name == "tiny"
    assert list(backend.reply(HELLO)) == [Piece("Hé", 1), Piece("llo", 2), Piece("", 7)]
    path, key, body = server.seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body["messages"] == HELLO
    assert (body["model"], body["max_tokens"], body["top_k"], body["stream"]) == ("tiny", 5, 3, True)
    assert "max_new_tokens" not in body


def test_running_usage_is_believed(server: Any) -> None:
    chunks = [delta("a", usage={"completion_tokens": 3}), delta("b", usage={"completion_tokens": 6})]
    server.script = (200, events(*chunks))
    assert [p.tokens for p in RemoteBackend(server.url, "m", None, {}).reply(HELLO)] == [3, 6]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_url_with_and_without_v1(server: Any, suffix: str) -> None:
    assert RemoteBackend(server.url.removeprefix("http://") + suffix, "", None, {}).name == "tiny"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ((400, b'{"error": {"message": "Too long."}}'), "Too long."),
        ((500, b"oops"), "The server answered 500: oops"),
        ((200, events(delta("a"), {"error": {"message": "Engine died."}})), "Engine died."),
        ((200, events(delta("a"), done=False)), "closed the stream before its end"),
    ],
)
def test_remote_errors_are_told(server: Any, script: tuple[int, bytes], told: str) -> None:
    server.script = script
    with pytest.raises(RequestError, match=told):
        list(RemoteBackend(server.url, "m", None, {}).reply(HELLO))


def test_leaving_early_closes_the_connection(server: Any) -> None:
    server.script = (200, events(delta("a"), delta("b")))
    pieces = RemoteBackend(server.url, "m", None, {}).reply(HELLO)
    assert next(pieces) == Piece("a", 1)
    pieces.close()  # type: ignore[attr-defined]
    assert list(pieces) == []


def test_nobody_there_is_told_with_the_remedy(server: Any) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(ConfigError, match=r"No server answers at .*Start one with"):
        RemoteBackend(server.url, "", None, {})


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", ""])
def test_a_bad_url_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a server's URL"):
        RemoteBackend(url, "m", None, {})


class Engine:
    """Gives cumulative answers, as LLM does."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.log: list[str] = []

    def stream_chat(self, messages: Any, sampling: Any) -> Iterator[dict[str, Any]]:
        self.asked.append((messages, sampling))
        try:
            for tokens, text in enumerate(["He", "Hel", "Hello"], 1):
                yield {"text": text, "meta_info": {"completion_tokens": tokens}}
        finally:
            self.log.append("stream closed")

    def close(self) -> None:
        self.log.append("closed")


def test_local_reply() -> None:
    engine = Engine()
    backend = LocalBackend(engine, "m", {"top_k": 1})  # type: ignore[arg-type]
    assert list(backend.reply(HELLO)) == [Piece("He", 1), Piece("l", 2), Piece("lo", 3)]
    assert engine.asked == [(HELLO, {"top_k": 1})]
    pieces = backend.reply(HELLO)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert engine.log == ["stream closed", "stream closed"]
    backend.close()
    assert engine.log[-1] == "closed"
