"""Lives: every open request by its id, how it ends, and what its clients are told outside of steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sglcore.request import Branch, FinishReason, Request, RequestOutput
from sglcore.scheduler.outputs import output
from sglcore.scheduler.seats import Seats
from sglcore.scheduler.sessions import Sessions


class Lives:
    """A request is here from its admission until its last branch ended; ending is idempotent.

    A row that has ended may still be in flight: its seat and pages come back when that step lands, whatever has become
    of the request's id since.
    """

    def __init__(self, seats: Seats, sessions: Sessions, clock: Callable[[], float]) -> None:
        self.seats = seats
        self.sessions = sessions
        self.clock = clock
        self.open: dict[str, Request] = {}
        self.outbox: list[RequestOutput] = []

    def find(self, rid: str) -> list[Request]:
        """The request with this id, else all whose id starts with it."""
        if rid in self.open:
            return [self.open[rid]]
        return [request for name, request in self.open.items() if name.startswith(rid)]

    def close(self, branch: Branch, finish: FinishReason, kept: int = -1) -> None:
        """A seated branch takes no more tokens; its seat is freed when its last step has landed."""
        branch.finish = finish
        self.seats.close(branch.row)
        if branch.request.finished:
            t = self.seats.rows
            self._gone(branch.request, t.tokens[branch.row, : t.length[branch.row]], kept)

    def end(self, request: Request, finish: FinishReason, *, only: int = -1, kept: int = -1) -> None:
        """End all open branches of a request, or branch `only`, now, whatever they are doing.

        `kept`: how many tokens of the output the client took, where it knows better; for the request's session.
        """
        for branch in request.branches if only < 0 else request.branches[only : only + 1]:
            if branch.finish is not None:
                continue
            self.outbox.append(output(branch, [], finish))
            if branch.row >= 0:
                self.close(branch, finish, kept)
                self.seats.land(branch.row)
                continue
            self.seats.queue.remove(branch)
            branch.finish = finish
            if request.finished:
                self._gone(request, branch.tokens, kept)

    def _gone(self, request: Request, tokens: np.ndarray, kept: int) -> None:
        self.open.pop(request.rid, None)
        answer = tokens[request.prompt_tokens :]
        self.sessions.record(request.rid, answer if kept < 0 else answer[:kept], self.clock())
