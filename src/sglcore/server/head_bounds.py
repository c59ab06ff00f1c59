"""Bounds on what comes before a request's body, which the HTTP parser itself does not have."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sglcore.server.body import MAX_BODY
from sglcore.server.errors import error_body

MAX_HEAD = 64 << 10  # bytes of the request line and all headers, trailers included
MAX_HEADERS = 256
MAX_MESSAGE = 8 * MAX_BODY  # bytes of one request on the wire: a body in tiny chunks is mostly framing
HEAD_SECONDS = 30.0  # from a head's first byte to its last
REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
}


class HeadTooLarge(Exception):
    """Ends the parsing; the parser wraps it, and the protocol then refuses."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers 431 to a head that is too large and 408 to one that does not end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head = self._message = 0
        self._late: asyncio.TimerHandle | None = None
        self._too_large = ""  # what is
        self._refused = False

    def data_received(self, data: bytes) -> None:
        """From the socket."""
        if self._refused:
            return
        self._message += len(data)
        super().data_received(data)
        if self._in_head and not self._refused:
            self._head += len(data)  # what the parser still holds back of a name or value counts as well
            if self._head > MAX_HEAD:
                self._refuse(431, f"The head of the request has more than {MAX_HEAD} bytes.")
            elif self._late is None:
                self._late = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._too_late)
        elif self._message > MAX_MESSAGE and not self._refused:
            self._refuse(413, f"The request has more than {MAX_MESSAGE} bytes.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._not_late()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._in_head, self._head, self._message = True, 0, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer after the body."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._too_large = f"The request has more than {MAX_HEADERS} headers."
            raise HeadTooLarge

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._in_head = False
        self._not_late()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD:
            self._too_large = f"The head of the request has more than {MAX_HEAD} bytes."
            raise HeadTooLarge
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """For what the parser could not read, or one of the above has refused to."""
        if self._too_large:
            self._refuse(431, self._too_large)
        else:
            self._refuse(400, msg)

    def _too_late(self) -> None:
        self._late = None
        if self._in_head and not self._refused:
            self._refuse(408, f"The head of the request did not arrive in {HEAD_SECONDS:.0f} s.")

    def _not_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close."""
        self._refused = True
        self._not_late()
        body = msgspec.json.encode(error_body(message, status=status))
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\n"
            "content-type: application/json\r\nx-content-type-options: nosniff\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
