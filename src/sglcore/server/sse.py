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


class EventStream(ByteStream):
    """OpenAI's stream: what a generator of events yields, then `[DONE]`. Later errors become an `error` event."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, on_error=lambda problem: event(problem_body(problem)), end=DONE)
