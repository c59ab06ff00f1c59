"""Application: Starlette with what is true of every HTTP request: an id, counts, a span, and a line in the access log.

The id is the client's `x-request-id` where that is a plain word of at most 128 characters, else one is made; the answer
bears it, and so does every line that is logged on behalf of the request.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from sglcore.server.body import MAX_BODY
from sglcore.server.http_call import HttpCall, enter_call, leave_call
from sglcore.server.metric_labels import label_values
from sglcore.server.metrics import ServerMetrics
from sglcore.server.observed import Observed
from sglcore.server_config import ServerConfig

log = logging.getLogger("sglcore.access")

REQUEST_ID = b"x-request-id"
UNKNOWN = "unknown"  # endpoint of requests that no route answers
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
CLIENT_GONE = 499
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Application(Starlette):
    """See the module. `observe` comes before the first request."""

    _metrics: ServerMetrics
    _observed: Observed
    _labels: tuple[str, ...]
    _label_header: bytes
    _quiet: tuple[str, ...]
    _exact: dict[str, str]
    _patterns: list[Route]

    def observe(self, config: ServerConfig, metrics: ServerMetrics, observed: Observed) -> None:
        """Whom to tell."""
        self._metrics, self._observed = metrics, observed
        self._labels = metrics.requests.labels
        self._label_header = config.tokenizer_metrics_custom_labels_header.lower().encode("latin-1", "replace")
        self._quiet = tuple(prefix for prefix in config.uvicorn_access_log_exclude_prefixes if prefix)
        routes = [route for route in self.routes if isinstance(route, Route)]
        self._exact = {route.path: route.path for route in routes if "{" not in route.path}
        self._patterns = [route for route in routes if "{" in route.path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, self._until_the_end(receive), send)
            return
        call = self._begin(scope, send)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                self._add_headers(call, message)
            await send(message)

        try:
            await super().__call__(scope, receive if call.body is None else _kept(receive, call), answer)
        finally:
            self._end(call)
            leave_call()

    def _begin(self, scope: Scope, send: Send) -> HttpCall:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(REQUEST_ID, b"")
        method = scope["method"] if scope["method"] in METHODS else "other"
        endpoint = self._endpoint(scope)
        call = HttpCall(
            given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex, method, scope["path"], endpoint, send
        )
        if self._labels:
            call.labels = label_values(headers.get(self._label_header, b""), self._labels)
        if method in ("POST", "PUT") and self._observed.dumps.active:
            call.body = bytearray()
        spans = self._observed.spans
        if spans is not None:
            parent, state = (headers.get(name, b"").decode("latin-1") for name in (b"traceparent", b"tracestate"))
            spans.begin(call, parent, state)
        self._metrics.calls.begin(endpoint, method)
        enter_call(call)
        return call

    def _end(self, call: HttpCall) -> None:
        self._metrics.calls.end(call.endpoint, call.method, call.status)
        if self._observed.spans is not None:
            self._observed.spans.end(call)
        self._observed.dumps.answered(call)
        if log.isEnabledFor(logging.INFO) and not call.path.startswith(self._quiet):
            seconds = time.perf_counter() - call.started
            extra: dict[str, Any] = {"status": call.status or CLIENT_GONE, "seconds": round(seconds, 6)}
            if call.rids:
                extra["rid"] = call.rids[0] if len(call.rids) == 1 else call.rids
            log.info("%s %s", call.method, call.path[:200], extra=extra)

    def _add_headers(self, call: HttpCall, message: Message) -> None:
        headers = message["headers"] = list(message.get("headers", ()))
        if not any(name.lower() == REQUEST_ID for name, _ in headers):
            headers.append((REQUEST_ID, call.id.encode()))
        if call.span is not None and self._observed.spans is not None:
            headers.append((b"traceparent", self._observed.spans.header(call).encode()))

    def _endpoint(self, scope: Scope) -> str:
        """The path of the route that will answer, so that labels are bounded."""
        found = self._exact.get(scope["path"])
        if found is None:
            found = next((route.path for route in self._patterns if route.matches(scope)[0] is not Match.NONE), UNKNOWN)
        return found

    def _until_the_end(self, receive: Receive) -> Receive:
        async def heard() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await asyncio.to_thread(self._observed.close)
            return message

        return heard


def _kept(receive: Receive, call: HttpCall) -> Receive:
    """The same messages, what they hold of the body kept in the call; a body that is too long is refused anyway."""

    async def heard() -> Message:
        message = await receive()
        body = call.body
        if message["type"] == "http.request" and body is not None and len(body) <= MAX_BODY:
            body += message.get("body", b"")
        return message

    return heard
