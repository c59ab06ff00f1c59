"""Serving the page: a handful of small files from the package, under headers that let it do nothing but its job.

The page is the same for everybody and holds no secrets, so it is public; what it shows it asks of endpoints that have
their own tiers. Everything is read once and kept in memory; names that are not in the list do not exist.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.server.engine_view import EngineView
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openapi_control import SERVER, EngineSnapshot
from sglcore.server.openapi_shapes import fetched

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Where pages stand; every other file is below /ui/.
ADDRESSES = {"index.html": "/", "docs.html": "/docs"}
# Content Security Policy, W3C level 3. Trusted types make a slip in our own scripts an error instead of a hole.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}


def ui_routes(face: Face) -> list[RouteEntry]:
    """`/`, `/docs` and `/ui/...`; nothing under `--no-ui`."""
    if face.context.config.no_ui:
        return []
    view = EngineView(face)

    async def engine(_: Request) -> Response:
        return json_response(await view.now(), headers={"Cache-Control": "no-store"})

    pages = [_file_route(address(name), name, data) for name, data in page_files().items()]
    doc = fetched(SERVER, "A snapshot of the engine, for the page", EngineSnapshot)
    return [*pages, RouteEntry("/ui/engine", engine, ("GET",), "user", doc=doc)]


def page_files() -> dict[str, bytes]:
    """The files of the page by name."""
    folder = files(__package__).joinpath("static")
    found = [f for f in folder.iterdir() if f.name.rpartition(".")[2] in MEDIA_TYPES]
    return {f.name: f.read_bytes() for f in sorted(found, key=lambda f: f.name)}


def address(name: str) -> str:
    """The path at which a file of the page is served."""
    return ADDRESSES.get(name, f"/ui/{name}")


def _file_route(path: str, name: str, data: bytes) -> RouteEntry:
    tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
    headers = HEADERS | {"ETag": tag}
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]

    async def page_file(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if tag in (part.strip().removeprefix("W/") for part in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=media_type)

    return RouteEntry(path, page_file, ("GET",), "public")
