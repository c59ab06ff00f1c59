"""HttpService: what an endpoint needs of HTTP beyond Starlette, and the one way in which answers are streamed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sglcore.contracts.routes import Problem
from sglcore.server.body import ClientGone, read_ask
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import problem_of, refusal

log = logging.getLogger("sglcore.server")

READER_SECONDS = 60.0  # a client that takes nothing for so long is cut off

Chunks = AsyncGenerator[bytes, None]
OnProblem = Callable[[Problem], Any]


class ByteStream(Response):
    """Streams the chunks of a generator, then `end`.

    The first chunk is awaited before the status line is sent, so a refused request gets a proper 4xx or 5xx: the
    Response of `on_early_error`, OpenAI's where it is None. Later errors become the chunk that `on_error` writes. The
    generator is closed in any case before the call returns, which aborts what still runs in the engine.
    seen: hears of the exception that ended the chunks (None: they ended by themselves), and returns what to tell.
    """

    def __init__(
        self,
        chunks: Chunks,
        *,
        media_type: str = "text/event-stream",
        on_error: Callable[[Problem], bytes],
        end: bytes = b"",
        on_early_error: OnProblem | None = None,
        patience: float = READER_SECONDS,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type=media_type)
        del self.headers["content-length"]
        self.on_early_error = on_early_error
        self.seen: Callable[[Exception | None], Exception | None] = lambda error: error
        self._chunks = chunks
        self._on_error = on_error
        self._end = end
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            await while_connected(receive, self._stream(scope, receive, send))

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        async with aclosing(self._chunks) as chunks:
            try:
                async for chunk in chunks:
                    if not started:
                        started = True
                        await self._start(send)
                    await self._send(send, chunk)
                self.seen(None)
            except ClientGone:
                raise
            except Exception as error:
                told = self.seen(error) or error
                if not started:
                    await refusal(told, self.on_early_error)(scope, receive, send)
                    return
                await self._send(send, self._told(told))
        if not started:
            await self._start(send)
        await self._send(send, self._end, more=False)

    def _told(self, error: Exception) -> bytes:
        problem = problem_of(error)
        try:
            return self._on_error(problem)
        except Exception:
            log.exception("An error could not be written in its dialect.")
            return b""

    async def _send(self, send: Send, chunk: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
        except TimeoutError:
            log.warning("A client took nothing of its stream for %.0f s; it is cut off.", self._patience)
            raise ClientGone from None

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


class Http:
    """Implements `contracts.services.HttpService`."""

    async def read_object(self, request: Request) -> dict[str, Any]:
        """See HttpService."""
        return await read_ask(request)

    async def while_connected(self, request: Request, work: Coroutine[Any, Any, Any]) -> Any:
        """See HttpService."""
        return await while_connected(request.receive, work)

    def stream(
        self,
        chunks: Chunks,
        *,
        media_type: str = "text/event-stream",
        on_error: Callable[[Problem], bytes],
        end: bytes = b"",
        on_early_error: OnProblem | None = None,
    ) -> ByteStream:
        """See HttpService."""
        return ByteStream(chunks, media_type=media_type, on_error=on_error, end=end, on_early_error=on_early_error)
