"""Which web pages may call the API: none, unless `--cors-allow-origins` lets their origin in.

Two halves. Where an origin is let in, its browser is told so (Fetch standard, CORS protocol), never with credentials:
keys travel in a header that a page must be given. Where it is not, requests that a browser marks as sent by a page of
another site are refused, as such a page needs no permission to *send*, only to read the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection

from sglcore.errors import ConfigError, RequestError

ANY = "*"
MAX_AGE = 600  # seconds that a browser may remember the answer
SHOWN = ("x-request-id", "retry-after")  # headers of answers that a page may read


def check_origins(origins: Sequence[str]) -> None:
    """Raises ConfigError for what is no origin: `*` or scheme://host[:port]."""
    for origin in origins:
        parts = urlsplit(origin)
        plain = parts.scheme in ("http", "https") and parts.netloc and origin == f"{parts.scheme}://{parts.netloc}"
        if origin != ANY and (not plain or "@" in parts.netloc or "*" in origin):
            raise ConfigError(
                f"--cors-allow-origins {origin!r}: not an origin.",
                remedy="Give scheme, host and port alone, as https://chat.example.org, or *.",
            )


def allow_origins(app: Starlette, origins: Sequence[str]) -> None:
    """Let these in. Nothing is added where there are none. Raises ConfigError."""
    check_origins(origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            allow_credentials=False,
            expose_headers=list(SHOWN),
            max_age=MAX_AGE,
        )


def check_site(connection: HTTPConnection, origins: Sequence[str]) -> None:
    """Raises RequestError 403 for what a page of another site has sent, unless its origin is let in."""
    headers = connection.headers
    if headers.get("sec-fetch-site", "") not in ("cross-site", "same-site"):
        return
    if ANY in origins or headers.get("origin", "") in origins:
        return
    raise RequestError(
        "This was sent by a web page of another origin.",
        status=403,
        code="origin_not_allowed",
        remedy="Start the server with --cors-allow-origins ORIGIN.",
    )
