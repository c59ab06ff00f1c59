"""Fields of a query, where a number is a text still; or of a body, where there is one."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from sglcore.server.body import decode_object, read_json_body
from sglcore.server.schemas import convert

S = TypeVar("S", bound=msgspec.Struct)


def query_fields(request: Request, cls: type[S]) -> S:
    """Raises RequestError naming the field."""
    query: dict[str, Any] = dict(request.query_params)
    try:
        return msgspec.convert(query, cls, strict=False)
    except msgspec.ValidationError:
        return convert(query, cls)  # raises, naming the field


async def body_or_query(request: Request, cls: type[S]) -> S:
    """Of the body if there is one, else of the query. Raises RequestError."""
    body = await read_json_body(request)
    return convert(decode_object(body), cls) if body else query_fields(request, cls)
