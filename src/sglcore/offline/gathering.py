"""Gathering: what one call has been answered so far, over all its prompts and branches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sglcore.contracts.services import TextService
from sglcore.engine.messages import Abort
from sglcore.errors import RequestError
from sglcore.native.answer import BranchAnswer
from sglcore.request import GenerateRequest, RequestOutput
from sglcore.text.branch_text import BranchText

WHOLE = 2**31  # tokens gathered before a piece is passed on, where nobody looks before the end


@dataclass(slots=True)
class Trip:
    """One prompt's. left: branches that the engine still runs. taken: its output tokens that the caller has."""

    ask: GenerateRequest
    first: int  # index of its first branch among the answers
    texts: list[BranchText]
    answers: list[BranchAnswer]
    left: int
    taken: int = 0

    @property
    def done(self) -> bool:
        return all(text.done for text in self.texts)

    def abort(self) -> Abort:
        """Ends what the engine still does for it."""
        return Abort(self.ask.rid, exact=True, kept=self.taken if self.ask.n == 1 else -1)


class Gathering:
    """Grows with the engine's outputs. One thread or task owns it.

    asks: what was asked. single: the answer is one body, not a list. interval: tokens gathered before a stream is given
    more, or WHOLE.
    """

    def __init__(
        self,
        asks: Sequence[GenerateRequest],
        text: TextService | None,
        *,
        single: bool,
        interval: int,
        weight_version: str,
    ) -> None:
        self.single = single
        self.asks = asks
        self._with_text = text is not None
        self._started = time.perf_counter()
        self._trips: dict[str, Trip] = {}
        self._places: list[tuple[Trip, int]] = []  # of each answer: its prompt and branch
        for index, ask in enumerate(asks):
            texts = [BranchText(index, b, text, ask.sampling, interval) for b in range(ask.n)]
            answers = [BranchAnswer(weight_version=weight_version) for _ in range(ask.n)]
            trip = Trip(ask, len(self._places), texts, answers, ask.n)
            self._trips[ask.rid] = trip
            self._places += [(trip, branch) for branch in range(ask.n)]
        self._changed: dict[int, None] = {}  # indices of answers, in the order in which they grew
        self._open = len(asks)

    @property
    def done(self) -> bool:
        """Whether all answers are whole."""
        return not self._open

    @property
    def rids(self) -> list[str]:
        """Ids of the requests, in the order asked."""
        return list(self._trips)

    def take(self, outputs: list[RequestOutput]) -> list[Abort]:
        """Add outputs; returns what the engine should end, because a stop string did. Raises RequestError."""
        return [abort for out in outputs for abort in self._take(out)]

    def _take(self, out: RequestOutput) -> Iterator[Abort]:
        trip = self._trips[out.rid]
        finish = out.finish
        trip.left -= finish is not None
        if finish is not None and finish.type == "error":
            raise RequestError(
                finish.message or "The engine gave this request up.",
                param=finish.param,
                code=finish.code,
                status=finish.status or 500,
                retry_after=finish.retry_after,
            )
        text = trip.texts[out.branch]
        if text.done:
            return
        trip.taken += len(out.token_ids)
        piece = text.advance(out)
        if piece is not None:
            trip.answers[out.branch].take(piece)
            self._changed[trip.first + out.branch] = None
        if text.done:
            self._open -= trip.done
            if finish is None:
                yield trip.abort() if trip.done else Abort(out.rid, exact=True, branch=out.branch)

    def unfinished(self) -> list[Abort]:
        """What the engine should end if nobody waits any longer."""
        return [trip.abort() for trip in self._trips.values() if trip.left]

    def result(self) -> Any:
        """The answer: one body for a single prompt with one branch, else a list, prompt by prompt."""
        bodies = [self._body(index) for index in range(len(self._places))]
        return bodies[0] if self.single else bodies

    def news(self) -> list[dict[str, Any]]:
        """Bodies of the answers that have grown since it was last asked; with `index` where there are many."""
        changed, self._changed = self._changed, {}
        return [self._body(index) | ({} if self.single else {"index": index}) for index in changed]

    def _body(self, index: int) -> dict[str, Any]:
        trip, branch = self._places[index]
        body = trip.answers[branch].body(trip.ask, self._started, with_text=self._with_text, name=None)
        return body | {"output_ids": list(body["output_ids"])}  # the caller's own: the answer goes on growing
