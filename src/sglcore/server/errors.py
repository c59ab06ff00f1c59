"""Every failure as a JSON body in OpenAI's shape; never a traceback."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sglcore.errors import EngineDead, RequestError, SglcoreError

log = logging.getLogger("sglcore.server")

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
DEFAULT_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    429: "queue_full",
    503: "engine_unavailable",
}
CLIENT_GONE = 499


def error_body(message: str, *, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """{"error": {message, type, param, code}}; SGLang's native errors are the same with the message alone."""
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "internal_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or DEFAULT_CODES.get(status)}}


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body for any exception. An unforeseen one is logged here and told to no client."""
    if isinstance(error, RequestError):
        return error.status, error_body(str(error), status=error.status, param=error.param, code=error.code)
    if isinstance(error, EngineDead):
        message = f"The engine is gone: {error}" if str(error) else "The engine is gone."
        return 503, error_body(message, status=503)
    if isinstance(error, SglcoreError):
        return 500, error_body(str(error), status=500, code="internal_error")
    if isinstance(error, HTTPException):
        return error.status_code, error_body(error.detail, status=error.status_code)
    log.error("Unforeseen error while answering a request", exc_info=error)
    return 500, error_body("An internal error occurred; the server's log has it.", status=500, code="internal_error")


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def error_response(error: Exception) -> Response:
    """The response for any exception."""
    status, body = describe(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    if isinstance(error, RequestError) and status == 429:
        headers = {"Retry-After": str(max(error.retry_after, 1))}
    if isinstance(error, HTTPException) and error.headers:
        headers = dict(error.headers)
    return json_response(body, status, headers)


async def on_exception(request: Request, error: Exception) -> Response:
    """Starlette's exception hook, for what happens outside an endpoint (unknown path, wrong method)."""
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        what = "path" if error.status_code == 404 else f"method {request.method} for path"
        error = HTTPException(error.status_code, f"Unknown {what} {request.url.path[:200]!r}.", error.headers)
    return error_response(error)
