"""Reading a request body: bounded, JSON, one object."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from sglcore.errors import RequestError

MAX_BODY = 32 << 20  # bytes
TENANT_HEADER = "x-tenant"

_decoder = msgspec.json.Decoder()


class ClientGone(Exception):
    """The client closed the connection; nobody reads the answer."""


async def read_json(request: Request, limit: int = MAX_BODY) -> dict[str, Any]:
    """The body as a JSON object. Raises RequestError 413 or 400, ClientGone."""
    return decode_object(await read_body(request, limit))


async def read_ask(request: Request) -> dict[str, Any]:
    """`read_json`, with the header that names the tenant put in its field: a gateway's word goes over the client's."""
    fields = await read_json(request)
    tenant = request.headers.get(TENANT_HEADER)
    return fields if tenant is None else fields | {"tenant": tenant}


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The body, never holding more than `limit` bytes and a chunk. Raises RequestError 413, ClientGone."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


def decode_object(body: bytes) -> dict[str, Any]:
    """Strict JSON: no NaN, no numbers beyond a double, no invalid UTF-8; nulls at the top level mean absent."""
    try:
        value = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            f"The body is not valid JSON: {str(error) or type(error).__name__}.",
            code="invalid_json",
            remedy="Send one JSON object in UTF-8.",
        ) from None
    if not isinstance(value, dict):
        raise RequestError(
            f"The body is a JSON {_kind(value)}, not an object.", code="invalid_json", remedy="Send one JSON object."
        )
    return {k: v for k, v in value.items() if v is not None}


def _kind(value: Any) -> str:
    return {list: "array", str: "string", int: "number", float: "number", bool: "boolean"}.get(type(value), "null")


def _too_large(limit: int) -> RequestError:
    return RequestError(f"The body has more than {limit} bytes.", status=413, remedy="Send less in one request.")
