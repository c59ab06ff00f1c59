"""The answer to a GET, read strictly and within bounds (RFC 9112; parsed by httptools)."""

from __future__ import annotations

import httptools

MAX_HEAD = 16 << 10  # bytes


class Refused(Exception):
    """Why an answer is not taken; the text continues "it was not fetched:"."""


class MediaAnswer:
    """Takes bytes as they come. body: what has arrived of it. type: its media type, without parameters."""

    def __init__(self, most_bytes: int) -> None:
        self.body = bytearray()
        self.type = ""
        self.complete = False
        self._most = most_bytes
        self._head = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._in_body = False
        self._problem: Refused | None = None
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises Refused."""
        if not self._in_body:
            self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            raise self._problem or Refused("its server's answer is not valid HTTP") from None
        if not self._in_body and self._head > MAX_HEAD:
            raise Refused("its server's answer has too large a head")

    def end(self) -> None:
        """The connection has ended. Raises Refused where that cuts the body off."""
        lengths = [value for name, value in self._headers if name in (b"content-length", b"transfer-encoding")]
        if not self._in_body or lengths:
            raise Refused("its server's answer was cut off")
        self.complete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._headers.append((name.lower(), value))
        if len(self._headers) > 256:
            self._refuse("its server's answer has too large a head")

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_body = True
        headers = dict(self._headers)
        status = self._parser.get_status_code()
        if 300 <= status < 400:
            self._refuse("its server redirects, which is not followed")
        if status != 200:
            self._refuse(f"its server answers with status {status}")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            self._refuse("its server compresses it, unasked")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            self._refuse(f"it has more than {self._most} bytes")
        self.type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")[:100]

    def on_body(self, data: bytes) -> None:
        """See httptools."""
        if len(self.body) + len(data) > self._most:
            self._refuse(f"it has more than {self._most} bytes")
        self.body += data

    def on_message_complete(self) -> None:
        """See httptools."""
        self.complete = True

    def _refuse(self, why: str) -> None:
        self._problem = Refused(why)
        raise self._problem
