"""Sessions: token sequences that later requests continue, branch off or replace.

The engine is the one owner: whichever API process a request comes through, it finds the same session. A session holds
token ids only; that its pages are still cached is the prefix cache's affair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from sglcore.errors import RequestError
from sglcore.request import GenerateRequest, SessionParams, pack_ids

NODE_TOKENS = 64  # what an entry costs beside its tokens, in tokens, so that empty ones are bounded too


@dataclass(frozen=True)
class SessionLimits:
    """count: sessions open at once. tokens: token ids kept for all together. timeout: idle seconds, None for ever."""

    count: int = 1024
    tokens: int = 2**22
    timeout: float | None = 3600.0


@dataclass(eq=False, slots=True)
class Entry:
    """One request of a session: its whole prompt and, when it has ended, what it answered."""

    rid: str
    parent: Entry | None
    prompt: np.ndarray  # int32 [tokens]
    output: np.ndarray | None = None  # int32 [tokens]; None while it runs
    since: float = math.inf  # when it was first asked for, where an engine before this one was asked
    children: list[Entry] = field(default_factory=list)

    @property
    def cost(self) -> int:
        return NODE_TOKENS + len(self.prompt) + (0 if self.output is None else len(self.output))

    def subtree(self) -> Iterator[Entry]:
        """Itself and all that continued it."""
        stack = [self]
        while stack:
            entry = stack.pop()
            yield entry
            stack.extend(entry.children)


@dataclass(eq=False, slots=True)
class Session:
    """`capacity`: tokens of its longest sequence, 0 for no bound of its own."""

    id: str
    capacity: int
    used_at: float
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class Composed:
    """A request with its whole prompt, and the requests that end because it replaces them."""

    asked: GenerateRequest
    replaced: tuple[Entry, ...] = ()

    @property
    def ends(self) -> list[str]:
        """Ids of replaced requests that still run."""
        return [entry.rid for entry in self.replaced if entry.output is None]


class Sessions:
    """All open sessions, least recently used first."""

    def __init__(self, limits: SessionLimits) -> None:
        self.limits = limits
        self.open: dict[str, Session] = {}
        self.tokens = 0
        self._running: dict[str, Session] = {}  # rid of a running request -> its session
        self._latest: dict[str, Session] = {}  # rid of an ended one -> its session, to be trimmed

    def __len__(self) -> int:
        return len(self.open)

    # -- control --

    def start(self, name: str, capacity: int, now: float) -> str:
        """Open a session. Raises RequestError if the name is taken or there are too many."""
        self.expire(now)
        if name in self.open:
            raise RequestError(f"Session {name!r} is open already.", param="session_id", code="session_exists")
        if len(self.open) >= self.limits.count:
            raise RequestError(
                f"{len(self.open)} sessions are open, as many as may be.",
                status=429,
                code="too_many_sessions",
                remedy="Close one, or start the server with a larger --max-sessions.",
            )
        self.open[name] = Session(name, capacity, now)
        return name

    def end(self, name: str, now: float) -> None:
        """Forget a session; requests of it that run go on. Raises RequestError if there is none."""
        self.expire(now)
        self._forget(self._named(name))

    def expire(self, now: float) -> None:
        """Forget sessions that were idle for too long."""
        limit = self.limits.timeout
        if limit is None:
            return
        for session in list(self.open.values()):
            if now - session.used_at < limit:
                break  # in order of use
            if not any(entry.output is None for entry in session.entries.values()):
                self._forget(session)

    # -- a request's way through --

    def compose(self, asked: GenerateRequest, now: float) -> Composed:
        """The request with its whole prompt. Changes nothing but what has expired. Raises RequestError."""
        params = asked.session
        if params is None:
            return Composed(asked)
        self.expire(now)
        session = self._named(params.id)
        if asked.n != 1:
            raise RequestError(f"A request of a session has one answer; `n` is {asked.n}.", param="n")
        before, replaced = self._before(session, params)
        replaced = tuple(entry for entry in replaced if entry.since <= _since(asked))
        prompt = np.concatenate([before, asked.token_ids()])
        self._check_room(session, asked, prompt)
        return Composed(msgspec.structs.replace(asked, input_ids=pack_ids(prompt)), replaced)

    def replaced_now(self, asked: GenerateRequest) -> str | None:
        """The running request that `asked` replaces and continues from where it is: to be ended before composing."""
        params = asked.session
        if params is None or not params.replace or params.rid is None:
            return None
        running = self._running.get(params.rid)
        if running is None or running is not self.open.get(params.id):
            return None
        return params.rid if running.entries[params.rid].since <= _since(asked) else None

    def enter(self, composed: Composed, now: float) -> None:
        """The composed request was admitted: it stands in its session from now on."""
        params = composed.asked.session
        if params is None:
            return
        session = self.open[params.id]
        for entry in composed.replaced:
            self._drop(session, entry)
        parent = session.entries.get(params.rid) if params.rid is not None else None
        earlier = session.entries.get(composed.asked.rid)
        if earlier is not None and earlier is not parent:
            for entry in list(earlier.subtree()):
                self._drop(session, entry)
        entry = Entry(composed.asked.rid, parent, composed.asked.token_ids(), since=_since(composed.asked))
        if parent is not None:
            parent.children.append(entry)
        if earlier is parent and parent is not None:
            self._drop(session, parent)
        session.entries[entry.rid] = entry
        self.tokens += entry.cost
        self._running[entry.rid] = session
        self._use(session, now)

    def record(self, rid: str, output: np.ndarray, now: float) -> None:
        """A request ended with these tokens (int32 [n]); costs a dictionary look-up if it is of no session."""
        session = self._running.pop(rid, None)
        if session is None or self.open.get(session.id) is not session or rid not in session.entries:
            return
        entry = session.entries[rid]
        self.tokens += len(output)
        entry.output = output.copy()
        self._latest[rid] = session
        self._use(session, now)

    def restore(self, asked: GenerateRequest, output: np.ndarray, now: float) -> None:
        """Take in a request that an engine before this one has answered. Raises RequestError where it has no place."""
        composed = self.compose(asked, now)
        self.enter(composed, now)
        self.record(asked.rid, output, now)

    def trim(self, rid: str, kept: int) -> None:
        """The client took only the first `kept` tokens of an ended request's output: a stop string cut the rest."""
        session = self._latest.get(rid)
        entry = session.entries.get(rid) if session is not None else None
        if entry is not None and entry.output is not None and kept < len(entry.output):
            self.tokens -= len(entry.output) - kept
            entry.output = entry.output[:kept].copy()

    # -- inside --

    def _named(self, name: str) -> Session:
        session = self.open.get(name)
        if session is None:
            raise RequestError(
                f"There is no session {name[:200]!r}; it was never opened, was closed, or has expired.",
                param="session_params.id",
                code="session_not_found",
                remedy="Open one with /open_session.",
            )
        return session

    def _before(self, session: Session, params: SessionParams) -> tuple[np.ndarray, tuple[Entry, ...]]:
        """The tokens that the request continues, and what it replaces."""
        if params.rid is None:
            return np.empty(0, np.int32), tuple(session.entries.values()) if params.replace else ()
        entry = session.entries.get(params.rid)
        if entry is None:
            raise RequestError(
                f"Session {session.id!r} has no request {params.rid!r}.",
                param="session_params.rid",
                code="session_request_not_found",
            )
        if entry.output is None:
            raise RequestError(
                f"Request {params.rid!r} of session {session.id!r} still runs.",
                param="session_params.rid",
                code="session_request_running",
                remedy="Wait for its end, or abort it.",
            )
        parts = [entry.prompt] if params.drop_previous_output else [entry.prompt, entry.output]
        before = np.concatenate(parts)
        if abs(params.offset) > len(before):
            raise RequestError(
                f"`session_params.offset` is {params.offset}; {len(before)} tokens stand before it.",
                param="session_params.offset",
            )
        replaced = tuple(list(entry.subtree())[1:]) if params.replace else ()
        return before[: params.offset] if params.offset else before, replaced

    def _check_room(self, session: Session, asked: GenerateRequest, prompt: np.ndarray) -> None:
        longest = len(prompt) + asked.sampling.max_new_tokens
        if session.capacity and len(prompt) > session.capacity:
            raise RequestError(
                f"The session's capacity is {session.capacity}; this request would have {len(prompt)} prompt tokens.",
                param="session_params.id",
                code="session_full",
            )
        if self.tokens + NODE_TOKENS + longest > self.limits.tokens:
            raise RequestError(
                f"Sessions hold {self.tokens} tokens of {self.limits.tokens}; this request may add {longest}.",
                status=429,
                code="sessions_full",
                remedy="Close sessions, or start the server with a larger --max-session-tokens.",
            )

    def _use(self, session: Session, now: float) -> None:
        session.used_at = now
        self.open[session.id] = self.open.pop(session.id)

    def _drop(self, session: Session, entry: Entry) -> None:
        if session.entries.get(entry.rid) is not entry:
            return
        del session.entries[entry.rid]
        self.tokens -= entry.cost
        self._running.pop(entry.rid, None)
        self._latest.pop(entry.rid, None)
        if entry.parent is not None and entry in entry.parent.children:
            entry.parent.children.remove(entry)

    def _forget(self, session: Session) -> None:
        for entry in list(session.entries.values()):
            self._drop(session, entry)
        self.open.pop(session.id, None)


def _since(asked: GenerateRequest) -> float:
    """A request that runs again replaces what it replaced when it was first asked, and nothing that came later."""
    return math.inf if asked.resume is None else asked.resume.since
