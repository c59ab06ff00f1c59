"""HttpCall: the HTTP request that is being answered, for whoever notes something of it on the way."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sglcore.cli.logs import request_id

if TYPE_CHECKING:
    from starlette.types import Send


@dataclass(slots=True)
class HttpCall:
    """One per HTTP request, found through `current_call` in its task and those it starts.

    id: the client's `x-request-id`, or one made here. labels: of the metrics, from the header that names them.
    trace: the caller's `traceparent`, as far as it is one. send: the server's own, past all middleware: for chunks
    after the first. rids: ids of the engine's requests it led to. body, trips: what was read,
    and the requests of `rids` that have ended (watch.Trip), where they are kept.
    """

    id: str
    method: str
    path: str
    endpoint: str
    send: Send
    labels: tuple[str, ...] = ()
    trace: str = ""
    span: Any = None  # tracing.Spans' own
    started: float = field(default_factory=time.perf_counter)
    at: float = field(default_factory=time.time)
    status: int = 0
    rids: list[str] = field(default_factory=list)
    body: bytearray | None = None
    trips: list[Any] = field(default_factory=list)


_current: ContextVar[HttpCall | None] = ContextVar("http_call", default=None)


def current_call() -> HttpCall | None:
    """The request that this task works for; None outside of any."""
    return _current.get()


def enter_call(call: HttpCall) -> None:
    """This task, and what it starts, works for `call` from here on."""
    _current.set(call)
    request_id.set(call.id)


def leave_call() -> None:
    """Its answer is complete."""
    _current.set(None)
    request_id.set("")
