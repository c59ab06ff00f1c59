"""Every failure as a JSON body in OpenAI's shape; never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import Problem
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


def error_body(
    message: str, *, status: int, param: str | None = None, code: str | None = None, kind: str = ""
) -> dict[str, Any]:
    """{"error": {message, type, param, code}}; SGLang's native errors are the same with the message alone."""
    error = {"message": message, "type": kind or kind_of(status), "param": param}
    return {"error": error | {"code": code or DEFAULT_CODES.get(status)}}


def kind_of(status: int) -> str:
    """OpenAI's word for errors of this status."""
    return ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "internal_error")


def problem_of(error: Exception) -> Problem:
    """Any exception as a client is told of it. An unforeseen one is logged here and told to no client."""
    status, message, param, code, retry_after = 500, str(error), None, None, 0
    if isinstance(error, RequestError):
        status, param, code = error.status, error.param, error.code
        retry_after = max(error.retry_after, 1) if status == 429 else error.retry_after
    elif isinstance(error, EngineDead):
        status, message = 503, f"The engine is gone: {error}" if str(error) else "The engine is gone."
    elif isinstance(error, SglcoreError):
        code = "internal_error"
    elif isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
    else:
        log.error("Unforeseen error while answering a request", exc_info=error)
        message, code = "An internal error occurred; the server's log has it.", "internal_error"
    code = code or DEFAULT_CODES.get(status)
    return Problem(
        status=status, message=message, kind=kind_of(status), param=param, code=code, retry_after=retry_after
    )


def problem_body(problem: Problem) -> dict[str, Any]:
    """A problem in OpenAI's shape."""
    return error_body(problem.message, status=problem.status, param=problem.param, code=problem.code, kind=problem.kind)


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body for any exception."""
    problem = problem_of(error)
    return problem.status, problem_body(problem)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def error_response(error: Exception) -> Response:
    """The response for any exception, in OpenAI's shape."""
    return refusal(error, None)


def refusal(error: Exception, on_error: Callable[[Problem], Any] | None) -> Response:
    """The response for any exception, as a dialect's `on_error` writes it; None: in OpenAI's shape."""
    problem = problem_of(error)
    response = _written(problem, on_error)
    if problem.status == 401:
        response.headers.setdefault("WWW-Authenticate", "Bearer")
    if problem.status == 429 and problem.retry_after:
        response.headers.setdefault("Retry-After", str(problem.retry_after))
    for name, value in (error.headers or {}).items() if isinstance(error, HTTPException) else ():
        response.headers.setdefault(name, value)
    return response


def _written(problem: Problem, on_error: Callable[[Problem], Any] | None) -> Response:
    if on_error is not None:
        try:
            response = on_error(problem)
            if isinstance(response, Response):
                return response
            log.error("on_error returned a %s, not a Response.", type(response).__name__)
        except Exception:
            log.exception("An error could not be written in its dialect.")
    return json_response(problem_body(problem), problem.status)


async def on_exception(request: Request, error: Exception) -> Response:
    """Starlette's exception hook, for what happens outside an endpoint (unknown path, wrong method).

    A wrong method on a dialect's path is told in that dialect.
    """
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        what = "path" if error.status_code == 404 else f"method {request.method} for path"
        error = HTTPException(error.status_code, f"Unknown {what} {request.url.path[:200]!r}.", error.headers)
    return refusal(error, getattr(request.scope.get("endpoint"), "on_error", None))
