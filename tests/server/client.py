"""An HTTP client over the app in this process."""

from __future__ import annotations

import json
from typing import Any

import httpx

from sglcore.server import build_app
from sglcore.server.context import ServerContext


def http_client(context: ServerContext, extra: tuple[Any, ...] = ()) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=build_app(context, extra), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def events(body: bytes) -> list[Any]:
    """The events of a stream, checked for framing; its `[DONE]` is left out."""
    parts = body.split(b"\n\n")
    assert parts[-2:] == [b"data: [DONE]", b""]
    assert all(part.startswith(b"data: ") for part in parts[:-1])
    return [json.loads(part[6:]) for part in parts[:-2]]
