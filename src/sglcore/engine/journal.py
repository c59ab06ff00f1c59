"""The journal: what a new engine must be told before requests, because earlier calls changed what requests mean."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from typing import Any

from sglcore.engine.messages import Call
from sglcore.request import GenerateRequest, pack_ids

# Calls that undo each other: only the latest counts.
PAUSES = ("pause_generation", "continue_generation")
MOST_SESSIONS = 4096  # of this client, remembered; the least recently used goes first


class Journal:
    """Of one client: the sessions it opened, with what was said in them, and whether generation is paused."""

    def __init__(self) -> None:
        self._pause: tuple[str, dict[str, Any]] | None = None
        self._sessions: dict[str, list[tuple[str, dict[str, Any]]]] = {}

    def called(self, name: str, arguments: dict[str, Any], result: Any) -> None:
        """A call was answered."""
        if name in PAUSES:
            # Told in place whatever the mode was: the requests that it ended are ended already.
            self._pause = (name, {"mode": "in_place"}) if name == PAUSES[0] else None
        elif name == "open_session":
            self._sessions[str(result)] = [(name, {**arguments, "session_id": result})]
            while len(self._sessions) > MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
        elif name == "close_session":
            self._sessions.pop(str(arguments.get("session_id")), None)

    def ended(self, request: GenerateRequest, tokens: Sequence[int], since: float = 0.0) -> Call | None:
        """A request, asked for at `since`, ended with these tokens, as far as its client took them.

        Returns what an engine that never saw it has to be told; None if it is of no session.
        """
        session = request.session
        if session is None or session.id not in self._sessions:
            return None
        self._sessions[session.id] = said = self._sessions.pop(session.id)
        told = {"rid": request.rid, "session": session, "input_ids": request.input_ids, "since": since}
        call = ("restore_session", told | {"output_ids": pack_ids(list(tokens))})
        insort(said, call, key=lambda other: float(other[1].get("since", -1.0)))  # several processes tell of ends
        return Call(0, *call)

    def tell(self) -> Iterator[Call]:
        """For a new engine, in order; nobody waits for the answers."""
        for said in self._sessions.values():
            for name, arguments in said:
                yield Call(0, name, arguments)
        if self._pause is not None:
            yield Call(0, *self._pause)
