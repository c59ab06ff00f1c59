"""Server-sent events: framing, and a response that ends its work when the client leaves.

The wire format is WHATWG HTML, section 9.2; OpenAI's dialect uses `data:` fields only and a final `[DONE]`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sglcore.server.body import ClientGone
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import describe, error_response

DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


def event(content: Any) -> bytes:
    """One event, its JSON encoded once."""
    return b"data: %b\n\n" % _encoder.encode(content)


class EventStream(Response):
    """Streams the bytes that a generator of events yields, then `[DONE]`.

    The first item is awaited before the status line is sent, so a refused request gets a proper 4xx or 5xx. Later
    errors become an `error` event. The generator is closed in any case before the call returns, which aborts what
    still runs in the engine.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            await while_connected(receive, self._stream(scope, receive, send))

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        async with aclosing(self._events) as events:
            try:
                async for chunk in events:
                    if not started:
                        started = True
                        await self._start(send)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except Exception as error:
                if not started:
                    await error_response(error)(scope, receive, send)
                    return
                await send({"type": "http.response.body", "body": event(describe(error)[1]), "more_body": True})
        if not started:
            await self._start(send)
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
