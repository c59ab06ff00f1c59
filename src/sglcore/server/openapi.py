"""`/openapi.json`: the API as a document, made of the routes that this server has, plugins' included.

The format is the OpenAPI Specification 3.2.0, the first that can tell what the events of a stream hold.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Sequence
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteDoc, RouteEntry
from sglcore.native.facts import version
from sglcore.server.openapi_shapes import DONE, EVENTS, JSON, LINES, REF, OpenAIError, Shapes
from sglcore.server_config import ServerConfig

log = logging.getLogger("sglcore.server")

EVENT_NAME = {"type": "string"}
WITH_BODY = ("POST", "PUT", "PATCH")
ABOUT = """\
Fields of a body that are null count as absent; fields that nobody reads are ignored, and counted in `/server_info`.
A field that asks for a feature that no installed plugin provides is refused with 400, unless its value asks for
nothing.

Beside what stands with an endpoint, any request may be refused with 403 (of a page from another site), 405 (another
method), 408 (it came too slowly), 415 (its body is a form), 431 (its head is too large) or 500.
"""
# Where more than one of a dialect's error statuses has the same cause everywhere, it is told here.
CAUSES = {
    400: "The request is malformed, or asks for what is not there.",
    401: "The key is missing or wrong.",
    403: "The key is that of a user; this asks for the admin key.",
    404: "What the address or a field names is not here.",
    413: "The body is too large.",
    429: "Too much is waiting already; `Retry-After` says when to come again.",
    503: "The engine is gone, or the server is shutting down.",
    504: "The request took longer than its `timeout`.",
}


def openapi_routes(entries: Sequence[RouteEntry], config: ServerConfig) -> list[RouteEntry]:
    """The document of `entries` and of itself, made when it is first asked for.

    It holds nothing secret, but it tells which plugins are there: where the server has an API key, it asks for it.
    """

    @cache
    def encoded() -> bytes:
        return _encoded([*entries, entry], config)

    async def openapi(_: Request) -> Response:
        return Response(await asyncio.to_thread(encoded), media_type=JSON)

    answers = {200: {JSON: {"type": "object", "required": ["openapi", "info", "paths"]}}}
    doc = RouteDoc(summary="This document", tag="server", answers=answers)
    entry = RouteEntry("/openapi.json", openapi, ("GET",), "user", doc=doc)
    return [entry]


def document(entries: Sequence[RouteEntry], config: ServerConfig) -> dict[str, Any]:
    """The OpenAPI document of the entries that have a RouteDoc, in their order."""
    told = [(entry, entry.doc) for entry in entries if entry.doc is not None]
    shapes = Shapes([OpenAIError, *(shape for _, doc in told for shape in _shapes_of(doc))])
    paths: dict[str, dict[str, Any]] = {}
    for entry, doc in told:
        for method in entry.methods:
            operations = paths.setdefault(plain_path(entry.path), {})
            operations[method.lower()] = _operation(entry, doc, method, shapes, config)
    text = msgspec.json.encode([paths, shapes.components]).decode()
    used = {name for name in shapes.components if f'"{REF.format(name=name)}"' in text}  # not those of queries alone
    return {
        "openapi": "3.2.0",
        "info": {"title": "sglcore", "version": version(), "description": ABOUT},
        "paths": paths,
        "tags": [{"name": tag} for tag in dict.fromkeys(doc.tag or "other" for _, doc in told)],
        "components": {
            "schemas": {name: schema for name, schema in shapes.components.items() if name in used},
            "securitySchemes": _schemes(entries),
        },
    }


def _encoded(entries: list[RouteEntry], config: ServerConfig) -> bytes:
    """The document as JSON. A route whose doc cannot be described, a plugin's say, is left out rather than all."""
    try:
        return msgspec.json.encode(document(entries, config))
    except Exception:
        return msgspec.json.encode(document([entry for entry in entries if _describable(entry, config)], config))


def _describable(entry: RouteEntry, config: ServerConfig) -> bool:
    try:
        msgspec.json.encode(document([entry], config))
    except Exception:
        log.exception("The route %s is left out of /openapi.json: its doc cannot be described.", entry.path)
        return False
    return True


def plain_path(path: str) -> str:
    """`/v1/models/{model_id:path}` as OpenAPI writes it."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)


def summary_of(entry: RouteEntry) -> str:
    """That of its doc, else the first line of the endpoint's docstring."""
    given = entry.doc.summary if entry.doc is not None else ""
    return given or (inspect.getdoc(inspect.unwrap(entry.endpoint)) or "").split("\n")[0].rstrip(".")


def refusals_of(entry: RouteEntry, doc: RouteDoc, method: str) -> list[int]:
    """The statuses of errors: those that follow from the entry, and the endpoint's own."""
    found = set(doc.refusals)
    found |= {"public": set(), "user": {401}, "admin": {401, 403}}[entry.tier]
    if doc.body is not None and method in WITH_BODY:
        found |= {400, 413}
    if doc.query is not None:
        found.add(400)
    if "{" in entry.path:
        found.add(404)
    if entry.tier == "user" and method == "POST":
        found.add(503)
    return sorted(found - doc.answers.keys())


def _shapes_of(doc: RouteDoc) -> list[Any]:
    contents = [shape for content in doc.answers.values() for shape in content.values()]
    return [shape for shape in (doc.body, doc.query, doc.error, *contents) if shape is not None]


def _operation(entry: RouteEntry, doc: RouteDoc, method: str, shapes: Shapes, config: ServerConfig) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", plain_path(entry.path))]),
        "summary": summary_of(entry),
        "tags": [doc.tag or "other"],
        "security": _security(entry, config),
    }
    if doc.description:
        operation["description"] = doc.description
    if parameters := [*_path_parameters(entry.path), *_query_parameters(doc, shapes)]:
        operation["parameters"] = parameters
    if doc.body is not None and method in WITH_BODY:
        content = {JSON: {"schema": shapes.schema(doc.body)} | ({"example": doc.example} if doc.example else {})}
        operation["requestBody"] = {"content": content, "required": not doc.body_optional}
    return operation | {"responses": _responses(entry, doc, method, shapes)}


def _responses(entry: RouteEntry, doc: RouteDoc, method: str, shapes: Shapes) -> dict[str, Any]:
    error = {JSON: {"schema": shapes.schema(doc.error if doc.error is not None else OpenAIError)}}
    told: dict[str, Any] = {}
    for status, content in doc.answers.items():
        told[str(status)] = {"description": _reason(status)}
        if content and method != "HEAD":
            told[str(status)]["content"] = {kind: _medium(kind, shape, shapes) for kind, shape in content.items()}
    for status in refusals_of(entry, doc, method):
        told[str(status)] = {"description": CAUSES.get(status, _reason(status)), "content": error}
    return told


def _medium(kind: str, shape: Any, shapes: Shapes) -> dict[str, Any]:
    if kind == LINES:
        return {"itemSchema": shapes.schema(shape)}
    if kind != EVENTS:
        return {"schema": shapes.schema(shape)}
    told = [one for one in (shape if isinstance(shape, tuple) else (shape,)) if one != DONE]
    content = shapes.schema(tuple(told) if len(told) > 1 else told[0])
    data: dict[str, Any] = {"type": "string", "contentMediaType": JSON, "contentSchema": content}
    if isinstance(shape, tuple) and any(one == DONE for one in shape):
        data = {"anyOf": [DONE, data]}
    return {"itemSchema": {"type": "object", "required": ["data"], "properties": {"event": EVENT_NAME, "data": data}}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)(?::\w+)?\}", path)
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _query_parameters(doc: RouteDoc, shapes: Shapes) -> list[dict[str, Any]]:
    if doc.query is None:
        return []
    struct = shapes.components[shapes.name(doc.query)]
    required = struct.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in struct["properties"].items()
    ]


def _security(entry: RouteEntry, config: ServerConfig) -> list[dict[str, Any]]:
    """Which keys open it. `{}` first: none is asked for where the server has none for this tier."""
    if entry.tier == "public":
        return []
    asked = config.api_key or (config.admin_api_key if entry.tier == "admin" else None)
    ways: list[dict[str, Any]] = [] if asked else [{}]
    ways.append({f"{entry.tier}Key": []})
    return ways + ([{entry.key_header: []}] if entry.key_header else [])


def _schemes(entries: Sequence[RouteEntry]) -> dict[str, Any]:
    bearer = {"type": "http", "scheme": "bearer"}
    headers = {entry.key_header for entry in entries if entry.key_header}
    return {
        "userKey": bearer | {"description": "`--api-key`, or the admin key. Asked for where `--api-key` is set."},
        "adminKey": bearer | {"description": "`--admin-api-key`; where only `--api-key` is set, that."},
        **{name: {"type": "apiKey", "in": "header", "name": name} for name in sorted(headers)},
    }


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase
