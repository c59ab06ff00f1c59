"""Failures as Anthropic's clients read them: {"type": "error", "error": {type, message}, "request_id"}."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from starlette.responses import Response

from sglcore.contracts.routes import Problem

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
REQUEST_ID = "request-id"  # the header that names a request


def error_body(problem: Problem, request: str) -> dict[str, Any]:
    """The body for a failure of the request with this id."""
    kind = TYPES.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": problem.message}, "request_id": request}


def on_error(problem: Problem) -> Response:
    """The whole answer to a request that failed before it had one."""
    request = f"req_{uuid.uuid4().hex}"
    body = msgspec.json.encode(error_body(problem, request))
    return Response(body, problem.status, {REQUEST_ID: request}, "application/json")
