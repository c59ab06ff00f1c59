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
from sglcore.contracts.services import Media
from sglcore.server.body import ClientGone, read_ask
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import problem_of, refusal
from sglcore.server.http_call import current_call
from sglcore.server.remote_media import RemoteMedia

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
        self._since = 0.0  # the loop's time at which the send that is under way began; 0.0: none is
        self._cut = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            await while_connected(receive, self._stream(scope, receive, send))

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        patrol = _Patrol(self, task)
        try:
            await self._send_all(scope, receive, send)
        except asyncio.CancelledError:
            if not self._cut:
                raise
            task.uncancel()
            log.warning("A client took nothing of its stream for %.0f s; it is cut off.", self._patience)
            raise ClientGone from None
        finally:
            patrol.end()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, now = False, asyncio.get_running_loop().time
        call = current_call()
        # After the status line middleware has nothing to do with the chunks, and each layer would cost every one.
        straight = call.send if call is not None else send
        async with aclosing(self._chunks) as chunks:
            try:
                async for chunk in chunks:
                    if not started:
                        started = True
                        await self._start(send)
                    self._since = now()
                    await straight({"type": "http.response.body", "body": chunk, "more_body": True})
                    self._since = 0.0
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
        self._since = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": chunk, "more_body": more})
        self._since = 0.0

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


class _Patrol:
    """Looks now and then at how long a send has been under way, and cancels the task of one that takes too long.

    A timer for every send would cost more than the send.
    """

    def __init__(self, stream: ByteStream, task: asyncio.Task[Any]) -> None:
        self._stream = stream
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(stream._patience, self._look)

    def _look(self) -> None:
        stream = self._stream
        left = stream._patience - (self._loop.time() - stream._since) if stream._since else stream._patience
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
            return
        stream._cut = True
        self._task.cancel()

    def end(self) -> None:
        """The stream is over."""
        self._timer.cancel()


class Http:
    """Implements `contracts.services.HttpService`. media: None where no URL is fetched."""

    def __init__(self, media: RemoteMedia | None = None) -> None:
        self._media = media or RemoteMedia(())

    async def read_object(self, request: Request) -> dict[str, Any]:
        """See HttpService."""
        return await read_ask(request, lenient=True)

    async def fetch(self, url: str, *, param: str) -> Media:
        """See HttpService."""
        return await self._media.fetch(url, param=param)

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
