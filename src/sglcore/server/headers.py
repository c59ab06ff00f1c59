"""Headers that every answer carries, whoever wrote it: what keeps a browser from doing more with it than it should."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOSNIFF = (b"x-content-type-options", b"nosniff")
# Of an HTML page that brings no policy of its own: it may load and run nothing.
BARE_PAGE = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class SafeHeaders:
    """ASGI middleware. A header that the answer has already stays as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with(list(message.get("headers", ())))
            await send(message)

        await self._app(scope, receive, sent)


def _with(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    there = {name.lower(): value for name, value in headers}
    wanted = [NOSNIFF]
    if there.get(b"content-type", b"").startswith(b"text/html"):
        wanted += BARE_PAGE
    return headers + [pair for pair in wanted if pair[0] not in there]
