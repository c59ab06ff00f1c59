"""A live server over the scripted engine with the dialects of plugins, found and contained as `serve` does it."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from server.parsing import CALL, SECOND, TEXT, parsers
from server.scripted import HANG, ScriptedEngine, output, says, server_context
from sglcore.errors import RequestError
from sglcore.plugins import discover
from sglcore.request import FinishReason, GenerateRequest, RequestOutput
from sglcore.server import build_app, build_server, listen
from sglcore.server.context import ServerContext
from sglcore.server.plugin_routes import plugin_routes
from sglcore.server_config import ServerConfig

ANSWER = "été à Zürich 🎉, how are you?"
THOUGHT = "Which city?"
WROTE = f"<think>\n{THOUGHT}\n</think>\n\nLet me look.\n{CALL}\n{SECOND}"
FINAL = "It is 12 degrees in Zürich."
END = TEXT.eos_token_ids[0]
CONTEXT = 4096
KEY = "k-1"

# What differs from run to run, in transcripts.
MASKS = (
    (rb"\b(msg|req|toolu|call)_[0-9a-f]{24,32}\b", rb"\1_*"),
    (rb'"created_at":"[0-9T:.-]+Z"', b'"created_at":"*"'),
    (rb'"((?:total|prompt_eval|eval)_duration)":\d+', rb'"\1":0'),
    (rb'"id":"(?:chatcmpl|cmpl)-[0-9a-f]{32}"', b'"id":"*"'),
    (rb'"created":\d+', b'"created":0'),
)


def masked(body: bytes) -> bytes:
    """A transcript without what differs from run to run."""
    for pattern, mark in MASKS:
        body = re.sub(pattern, mark, body)
    return body


def script(request: GenerateRequest) -> Any:
    """What the model does follows from the last words of the prompt."""
    prompt = TEXT.decode(request.token_ids().tolist())
    if "Hang" in prompt:
        return [[output(request, TEXT.encode("ok"))], HANG]
    if "Break" in prompt:
        return [[output(request, TEXT.encode("ok"))], RequestError("Out of luck.", status=503)]
    if "Abort" in prompt:
        return [[output(request, TEXT.encode("ok"), finish=FinishReason("abort", message="Told to stop."))]]
    if "<tool_response>" in prompt:
        return says(TEXT, FINAL, end=END)(request)
    return says(TEXT, WROTE if "Weather?" in prompt else ANSWER, end=END)(request)


class NoticingEngine(ScriptedEngine):
    """Tells another thread when a request was left before its end."""

    def __init__(self) -> None:
        super().__init__(script)
        self.noticed = threading.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[RequestOutput], None]:
        before = len(self.left)
        try:
            async with aclosing(super().generate(request)) as steps:
                async for step in steps:
                    yield step
        finally:
            if len(self.left) > before:
                self.noticed.set()


def dialect_context(engine: ScriptedEngine, **flags: Any) -> tuple[ServerContext, list[Any]]:
    """The context of a server, and the routes of the plugins installed."""
    context = server_context(engine, TEXT, model={"context_length": CONTEXT}, **flags)
    context.parsers = parsers("hermes", "qwen3")
    return context, plugin_routes(discover("auto"), context)


class Live:
    """A server in a thread, its address and its engine."""

    def __init__(self, **flags: Any) -> None:
        self.engine = NoticingEngine()
        config = ServerConfig(model_path="org/tiny-model", port=0)
        self._sock = listen(config)
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        context, routes = dialect_context(self.engine, **flags)
        self._server = build_server(build_app(context, routes), config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._sock]})
        self._thread.start()

    def stop(self) -> None:
        """End it; AssertionError where it does not."""
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server did not stop"

    @contextmanager
    def expect_left(self) -> Iterator[None]:
        """The block must make the engine's request end early."""
        self.engine.noticed.clear()
        yield
        assert self.engine.noticed.wait(5), "the engine was not told"


def live(**flags: Any) -> Iterator[Live]:
    """For a fixture."""
    server = Live(**flags)
    yield server
    server.stop()
