"""Reading a request body: bounded in bytes, depth and time, JSON, one object.

Content types that a web page may send to another origin without asking first (a form, plain text) are refused: a
server on a private address must not be steered by a page that somebody behind the same firewall looks at.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from sglcore.errors import RequestError

MAX_BODY = 32 << 20  # bytes
MAX_DEPTH = 64  # of arrays and objects in each other
BODY_SECONDS = 120.0  # for a whole body to arrive
TENANT_HEADER = "x-tenant"
FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})

_decoder = msgspec.json.Decoder()
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AS_ARRAYS = bytes.maketrans(b"{}", b"[]")


class ClientGone(Exception):
    """The client closed the connection; nobody reads the answer."""


class DuplicateKey(ValueError):
    """An object has a key twice."""


async def read_json(request: Request, limit: int = MAX_BODY) -> dict[str, Any]:
    """The body as a JSON object. Raises RequestError 415, 413, 408 or 400, ClientGone."""
    return decode_object(await read_json_body(request, limit))


async def read_ask(request: Request, *, lenient: bool = False) -> dict[str, Any]:
    """`read_json`, with the header that names the tenant put in its field: a gateway's word goes over the client's.

    lenient: for dialects whose clients send JSON under any content type. A browser's form is refused there too.
    """
    check_content_type(request, lenient=lenient)
    fields = decode_object(await read_body(request))
    tenant = request.headers.get(TENANT_HEADER)
    return fields if tenant is None else fields | {"tenant": tenant}


async def read_json_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The bytes of a body that calls itself JSON, or says nothing; b"" where there is none."""
    body = await read_body(request, limit)
    if body:
        check_content_type(request)
    return body


def check_content_type(request: Request, *, lenient: bool = False) -> None:
    """Raises RequestError 415 for a form or plain text; with `lenient` only for one that a browser sends."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in FORMS and not (lenient and not from_browser(request)):
        raise RequestError(
            f"The content type is {kind}, and this endpoint takes JSON.",
            status=415,
            code="unsupported_media_type",
            remedy="Send the header `Content-Type: application/json`.",
        )


def from_browser(request: Request) -> bool:
    """Whether a web page has sent it, as far as headers that no page can forge tell."""
    return "origin" in request.headers or "sec-fetch-site" in request.headers


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The body, never holding more than `limit` bytes and a chunk. Raises RequestError 413 or 408, ClientGone."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise RequestError(f"The body did not arrive in {BODY_SECONDS:.0f} s.", status=408) from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


def decode_object(body: bytes) -> dict[str, Any]:
    """Strict JSON: no NaN, no numbers beyond a double, no invalid UTF-8, no key twice, at most MAX_DEPTH deep.

    Nulls at the top level mean absent. Raises RequestError.
    """
    try:
        value = _decoder.decode(body)
        _check_depth(body)
        _check_keys(body)
    except (msgspec.DecodeError, DuplicateKey, UnicodeDecodeError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        problem = f"it is more than {MAX_DEPTH} levels deep" if deep else str(error) or type(error).__name__
        raise RequestError(
            f"The body is not valid JSON: {problem}.",
            code="invalid_json",
            remedy="Send one JSON object in UTF-8.",
        ) from None
    if not isinstance(value, dict):
        raise RequestError(
            f"The body is a JSON {_kind(value)}, not an object.", code="invalid_json", remedy="Send one JSON object."
        )
    return {k: v for k, v in value.items() if v is not None}


def _check_depth(body: bytes) -> None:
    """Of valid JSON. Raises RecursionError."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", body).translate(_AS_ARRAYS, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):  # each time the innermost level goes
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    raise RecursionError


def _check_keys(body: bytes) -> None:
    """Of valid JSON. Readers differ in which of two values they take, so what one checks another may never see."""
    json.loads(body, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise DuplicateKey(f"the key {twice[:80]!r} stands twice in an object")


def _kind(value: Any) -> str:
    return {list: "array", str: "string", int: "number", float: "number", bool: "boolean"}.get(type(value), "null")


def _too_large(limit: int) -> RequestError:
    return RequestError(f"The body has more than {limit} bytes.", status=413, remedy="Send less in one request.")
