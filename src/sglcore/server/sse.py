"""Server-sent events: framing, and a response that ends its work when the client leaves.

The wire format is WHATWG HTML, section 9.2; OpenAI's dialect uses `data:` fields only and a final `[DONE]`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from sglcore.server.errors import problem_body
from sglcore.server.http_service import ByteStream

DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


def event(content: Any) -> bytes:
    """One event, its JSON encoded once."""
    return b"data: %b\n\n" % _encoder.encode(content)


class Frame:
    """Events that differ in one text alone: the rest of their JSON is encoded once.

    content: one of them, with `mark` (which is found nowhere else in it) where that text stands.
    """

    __slots__ = ("_after", "_before")

    def __init__(self, content: Any, mark: str) -> None:
        self._before, self._after = event(content).split(_encoder.encode(mark))

    def event(self, text: str) -> bytes:
        """The same bytes as `event` gives for the whole content."""
        return b"%b%b%b" % (self._before, _encoder.encode(text), self._after)


class EventStream(ByteStream):
    """OpenAI's stream: what a generator of events yields, then `[DONE]`. Later errors become an `error` event."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, on_error=lambda problem: event(problem_body(problem)), end=DONE)
