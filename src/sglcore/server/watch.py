"""Watch: what is noted of one request of the engine on its way, for metrics, logs, spans and files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sglcore.errors import RequestError
from sglcore.request import FinishReason, GenerateRequest, RequestOutput
from sglcore.server.http_call import HttpCall, current_call
from sglcore.server.metrics import ServerMetrics
from sglcore.text.branch_text import Piece

MAX_RIDS = 64  # of one HTTP request, kept for its log line


@dataclass(slots=True)
class Trip:
    """One request of the engine, as far as it has come. Times are `time.perf_counter()` seconds, 0.0 for not yet.

    received: its HTTP request. submitted: to the engine. first, last: its first and latest token, over all branches.
    queued: seconds it waited in the engine for a seat. finishes: of its branches, in order of ending. ids: of the
    answer, by branch, where somebody keeps them. error: why it was refused or given up.
    """

    ask: GenerateRequest
    call: HttpCall | None
    received: float
    submitted: float
    at: float  # unix seconds of `submitted`
    first: float = 0.0
    last: float = 0.0
    ended: float = 0.0
    queued: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    retractions: int = 0
    finishes: list[FinishReason] = field(default_factory=list)
    ids: dict[int, list[int]] | None = None
    error: Exception | None = None

    @property
    def aborted(self) -> bool:
        """Whether it ended before it was done."""
        return len(self.finishes) < self.ask.n or any(finish.type == "abort" for finish in self.finishes)

    @property
    def outcome(self) -> str:
        """How it ended: stop, length, abort, or error."""
        if self.error is not None:
            return "error"
        return "abort" if self.aborted else self.finishes[0].type

    @property
    def status(self) -> int:
        """HTTP status of its error, 0 where it had none."""
        if self.error is None:
            return 0
        return self.error.status if isinstance(self.error, RequestError) else 500

    def stages(self) -> dict[str, float]:
        """Seconds of each stage it has been through."""
        found = {"prepare": max(self.submitted - self.received, 0.0)}
        if self.first:
            waited = min(self.queued, self.first - self.submitted)
            found["queue"] = waited
            found["prefill"] = self.first - self.submitted - waited
            found["decode"] = self.last - self.first
        return found


class Observer(Protocol):
    """Somebody who wants to know of requests. It must be quick and must not raise."""

    @property
    def wants_ids(self) -> bool:
        """Whether it looks at the tokens of answers."""
        ...

    def began(self, trip: Trip) -> None:
        """A request is about to be submitted."""
        ...

    def over(self, trip: Trip) -> None:
        """It has ended, in whatever way."""
        ...


class Watch:
    """The clock of one request. `step` is called for everything the engine delivers: it does little."""

    __slots__ = ("_between", "_counts", "_last", "_metrics", "_observers", "_tally", "trip")

    def __init__(self, ask: GenerateRequest, metrics: ServerMetrics, observers: Sequence[Observer]) -> None:
        call = current_call()
        now = time.perf_counter()
        self.trip = Trip(ask, call, call.started if call is not None else now, now, time.time())
        self._observers = observers
        self._tally = metrics.tally(call.labels if call is not None else ())
        self._between = self._tally.between
        self._counts = self._tally.counts
        self._last: dict[int, float] = {}
        self._counts["num_requests_total"] += 1
        if call is not None and len(call.rids) < MAX_RIDS:
            call.rids.append(ask.rid)
        if any(observer.wants_ids for observer in observers):
            self.trip.ids = {}
        for observer in observers:
            observer.began(self.trip)

    def step(self, outputs: list[RequestOutput]) -> None:
        """What has come at once."""
        trip, now = self.trip, time.perf_counter()
        if len(outputs) == 1:  # the common case: no more calls than need be
            count, branch = len(outputs[0].token_ids), outputs[0].branch
            before = self._last.get(branch)
            if count and before is not None:
                self._last[branch] = trip.last = now
                self._between.add((now - before) / count, count)
                trip.completion_tokens += count
                self._counts["generation_tokens_total"] += count
            elif count:
                self._tokens(branch, count, now)
        else:
            counts: dict[int, int] = {}
            for out in outputs:
                counts[out.branch] = counts.get(out.branch, 0) + len(out.token_ids)
            for branch, count in counts.items():
                if count:
                    self._tokens(branch, count, now)
        if not trip.prompt_tokens and outputs:
            self._prompt(outputs[0])
        if trip.ids is not None:
            for out in outputs:
                trip.ids.setdefault(out.branch, []).extend(out.token_ids)

    def _tokens(self, branch: int, count: int, now: float) -> None:
        trip, before = self.trip, self._last.get(branch)
        self._last[branch] = now
        if before is not None:
            self._between.add((now - before) / count, count)
        else:
            self._tally.observe("time_to_first_token_seconds", now - trip.received)
            trip.first = trip.first or now
        trip.last = now
        trip.completion_tokens += count
        self._counts["generation_tokens_total"] += count

    def _prompt(self, out: RequestOutput) -> None:
        trip = self.trip
        trip.prompt_tokens, trip.cached_tokens = out.prompt_tokens, out.cached_tokens
        trip.queued = out.queue_time
        self._counts["prompt_tokens_total"] += out.prompt_tokens
        self._counts["cached_tokens_total"] += out.cached_tokens

    def ended(self, pieces: Sequence[Piece]) -> None:
        """The last pieces of some branches."""
        self.trip.finishes += [piece.finish for piece in pieces if piece.finish is not None]

    def failed(self, error: Exception) -> None:
        """It was refused or given up."""
        self.trip.error = error

    def over(self) -> None:
        """Nothing more comes."""
        trip, tally = self.trip, self._tally
        trip.ended = time.perf_counter()
        if trip.aborted:
            tally.counts["num_aborted_requests_total"] += 1
        tally.observe("e2e_request_latency_seconds", trip.ended - trip.received)
        if trip.first:
            tally.observe("queue_time_seconds", trip.queued)
            tally.observe("prompt_tokens_histogram", trip.prompt_tokens)
            tally.observe("generation_tokens_histogram", trip.completion_tokens)
        for stage, seconds in trip.stages().items():
            tally.observe("per_stage_req_latency_seconds", seconds, stage)
        for observer in self._observers:
            observer.over(trip)
