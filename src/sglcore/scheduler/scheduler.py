"""Scheduler: plan a step, commit its result. Continuous batching with chunked prefill mixed into decode.

`plan` needs counts and upper bounds, never token values, so it can run while the step before is
still on the device. `commit` is called once per plan, in order.

    add -> Admission -> WaitingQueue -> Planner -> Seats -> Commit -> Lives -> outputs

This is the door; each of them is a module of its own beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from sglcore.batch import Batch, StepResult
from sglcore.contracts.policies import Policy
from sglcore.errors import RequestError
from sglcore.memory.ledger import KVLedger
from sglcore.memory.rows import RowTable
from sglcore.request import Branch, FinishReason, GenerateRequest, Request, RequestOutput, TokenLogprobs
from sglcore.scheduler.admission import Admission, Limits, displaced
from sglcore.scheduler.changes import NO_ROWS
from sglcore.scheduler.commit import Commit
from sglcore.scheduler.deadlines import Deadlines
from sglcore.scheduler.finish import StopCheck
from sglcore.scheduler.lives import Lives
from sglcore.scheduler.outputs import output, stamp
from sglcore.scheduler.planner import Planner
from sglcore.scheduler.pressure import NewTokenRatio
from sglcore.scheduler.priority import Preemption
from sglcore.scheduler.queue import WaitingQueue
from sglcore.scheduler.seats import Seats
from sglcore.scheduler.sessions import Sessions

PauseMode = Literal["abort", "retract", "in_place"]


class Scheduler:
    """Owns the life of every request in the engine; the only writer of `Branch` and `RowTable`."""

    def __init__(
        self,
        ledger: KVLedger,
        rows: RowTable,
        policy: Policy,
        limits: Limits,
        eos_ids: tuple[int, ...],
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds; deadlines, ageing and sessions go by it."""
        self.ledger = ledger
        self.rows = rows
        self.limits = limits
        self.clock = clock
        self.paused = False
        rules = limits.priority
        self.queue = WaitingQueue(policy, ledger, rows, overtakes=limits.overtakes, by_priority=rules.enabled)
        self.stop = StopCheck(eos_ids, rows)
        self.ratio = NewTokenRatio()
        self.seats = Seats(ledger, rows, self.queue, self.stop)
        self.sessions = Sessions(limits.sessions)
        self.lives = Lives(self.seats, self.sessions, clock)
        self.admission = Admission(limits, ledger, rows, self.queue)
        self.deadlines = Deadlines()
        self._preemption = Preemption(rules, self.seats, self.queue, self.ratio)
        self._planner = Planner(self.seats, self.ratio, self._preemption, limits.chunk, self._seated)
        self._commit = Commit(self.seats, self.lives, self.stop)
        self._counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "preemptions", "aborted", "timeouts"), 0)
        self._seeds = np.random.default_rng(seed)

    # -- what is where --

    @property
    def requests(self) -> dict[str, Request]:
        """All that are not finished, by id."""
        return self.lives.open

    @property
    def seated(self) -> list[Branch | None]:
        """The branch in each row."""
        return self.seats.taken

    @property
    def counts(self) -> dict[str, int]:
        """Totals since the start, for metrics."""
        return {
            **self._counts,
            "generated_tokens": self._commit.generated,
            "retractions": self._planner.retracted,
        }

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.lives.outbox or (self.lives.open and not self.paused) or self._late)

    @property
    def running(self) -> int:
        return int(self.rows.open.sum())

    def limit(self, limits: Limits) -> None:
        """Other bounds from now on. Its rules of priority and sessions must be those of before."""
        self.limits = self.admission.limits = limits
        self.queue.overtakes, self._planner.chunk = limits.overtakes, limits.chunk

    @property
    def _late(self) -> bool:
        return self.deadlines.next is not None and self.deadlines.next <= self.clock()

    # -- the door --

    def add(self, asked: GenerateRequest) -> None:
        """Take a request in. Raises RequestError if it can never run, its id is in use, or the queue is full."""
        now = self.clock()
        if asked.rid in self.lives.open:
            raise RequestError(
                f"A request with id {asked.rid!r} is already running.", param="rid", code="duplicate_rid", status=400
            )
        self.limits.priority.check(asked)
        replaced = self.sessions.replaced_now(asked)
        if replaced is not None:
            self.lives.end(self.lives.open[replaced], FinishReason("abort", message="Replaced in its session."))
        composed = self.sessions.compose(asked, now)
        self.admission.refuse_impossible(composed.asked)
        priority = self.limits.priority.of(asked, now)
        self._make_room(composed.asked, priority, now)
        for rid in composed.ends:
            self.lives.end(self.lives.open[rid], FinishReason("abort", message="Replaced in its session."))
        self.sessions.enter(composed, now)
        self._enter(composed.asked, priority, now)

    def _make_room(self, asked: GenerateRequest, priority: float, now: float) -> None:
        """Where the queue is full, a request of higher priority takes the place of the lowest that never ran."""
        refusal = self.admission.refusal(asked, now)
        while refusal is not None:
            lowest = self.queue.lowest() if self.limits.priority.enabled else None
            if lowest is None or lowest.priority >= priority or lowest.passed:
                raise refusal
            self.lives.end(lowest.request, displaced())
            refusal = self.admission.refusal(asked, now)

    def _enter(self, asked: GenerateRequest, priority: float, now: float) -> None:
        seed = asked.sampling.seed
        request = Request(asked, int(self._seeds.integers(2**62)) if seed is None else seed)
        self.lives.open[asked.rid] = request
        for branch in request.branches:
            branch.queued_at = now
            branch.priority = priority
            if branch.finish is None:  # one resumed may have ended branches
                self.queue.push(branch)
        seconds = self.limits.timeout if asked.timeout is None else asked.timeout
        if seconds is not None:
            self.deadlines.prune(len(self.lives.open))
            self.deadlines.watch(request, now + seconds)

    def abort(self, rid: str, *, branch: int = -1, message: str = "Aborted.", kept: int = -1) -> int:
        """End the request `rid`, or all whose id starts with it ("" for all); returns how many it met. Idempotent.

        `branch` ends that one alone. `kept`: how many of its tokens the client took, for its session.
        """
        met = self.lives.find(rid)
        for request in met:
            self.lives.end(request, FinishReason("abort", message=message), only=branch, kept=kept)
        if branch < 0:
            self._counts["aborted"] += len(met)
        return len(met)

    def flush(self) -> None:
        """Empty the prefix cache. Raises RequestError while requests hold pages, or wait for a seat that is to come."""
        if self.seats.occupied or (self.lives.open and not self.paused):
            raise RequestError(
                f"The cache cannot be flushed while {len(self.lives.open)} requests run or wait "
                f"({self.seats.occupied} rows hold pages).",
                code="busy",
                remedy="Try again when the engine is idle, or pause it in mode retract or abort first.",
            )
        self.ledger.flush()

    def pause(self, mode: PauseMode) -> None:
        """Plan nothing until `resume`; requests that come wait. Steps in flight still land.

        abort ends all requests; retract sends those that run back to the queue, without pages; in_place leaves them
        where they are, with theirs. Idempotent.
        """
        self.paused = True
        if mode == "abort":
            self.abort("", message="Generation was paused.")
        elif mode == "retract":
            for row in np.flatnonzero(self.rows.active).tolist():
                self.seats.retract(row)

    def resume(self) -> None:
        """Go on after `pause`. Idempotent."""
        self.paused = False

    # -- steps --

    def plan(self) -> Batch:
        """Decide the next step and reserve its pages. Idle batch if nothing can be computed."""
        if self.deadlines.next is not None:
            self._expire()
        if self.paused:
            return self.seats.changes.batch(NO_ROWS, [])
        if self.limits.priority.enabled:
            self._counts["preemptions"] += self._preemption.make_way(self.limits.chunk)
        decode = self._planner.decode()
        return self.seats.changes.batch(decode, self._planner.prefill())

    def commit(self, batch: Batch, result: StepResult) -> list[RequestOutput]:
        """Take a step's tokens in: append, finish, cache prefixes, free what is done. Returns what clients get."""
        outputs = self._commit.take(batch, result)
        return self.take_outbox() + outputs if self.lives.outbox else outputs

    def lost(self, batches: Sequence[Batch]) -> bool:
        """Steps in flight, in order, for which the device had no memory: plan smaller, and their rows again.

        False, and nothing has changed, if there is no smaller step to plan.
        """
        if not self._planner.shrink(max(batch.num_tokens for batch in batches)):
            return False
        for batch in reversed(batches):
            self._commit.lost(batch)
        return True

    def take_outbox(self) -> list[RequestOutput]:
        """Outputs that no step made: aborts, refusals, deadlines."""
        ready, self.lives.outbox = self.lives.outbox, []
        return ready

    def _expire(self) -> None:
        for request in self.deadlines.expired(self.clock()):
            self._counts["timeouts"] += 1
            self.lives.end(request, _timed_out(request))

    def _seated(self, branch: Branch) -> None:
        """A branch got a row; what is told once is told now."""
        now = self.clock()
        self.admission.seated(now)
        if branch.cached < 0:
            branch.cached = int(self.rows.computed[branch.row])
            branch.cache_miss = self.ledger.account(branch.row, branch.cached)
            branch.started_at = now
            self._counts["prompt_tokens"] += branch.request.prompt_tokens
            self._counts["cached_tokens"] += branch.cached
            asked = branch.request.asked
            if asked.return_logprob and asked.logprob_start == 0:
                first = TokenLogprobs(None, int(branch.tokens[0]))  # nothing stands before it that could predict it
                self.lives.outbox.append(output(branch, [], None, None, [first]))
        self.seats.stamps[branch.row] = stamp(branch)


def _timed_out(request: Request) -> FinishReason:
    """An answer that has begun is cut; a request that has not got so far failed."""
    begun = any(branch.cached >= 0 for branch in request.branches)
    message = "The request ran out of its time."
    return FinishReason("abort" if begun else "error", message=message, status=504, code="timeout", param="timeout")
