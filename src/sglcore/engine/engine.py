"""Engine: plan, launch, commit. The plain loop and the overlapped loop stand side by side.

    plain        plan N | forward N, sample N | commit N | plan N+1 ...

    overlapped   host    plan N+1, queue forward N+1 | commit N, queue sample N+1 | plan N+2 ...
                 device  ....... forward N, sample N ....... | ....... forward N+1, sample N+1 .......

Overlap is possible because a plan needs counts, not values: forward N+1 reads the tokens of step N
from the device's row table. What commit N then finds (a stop token) costs that row one wasted position.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast, get_args

import msgspec
import numpy as np

from sglcore.batch import Batch
from sglcore.contracts.execution import PendingStep, StepExecutor
from sglcore.engine.cache import CacheKeeper
from sglcore.engine.processors import Processors
from sglcore.errors import OutOfMemory, RequestError
from sglcore.isolation import Hooks
from sglcore.request import GenerateRequest, RequestOutput, Resume, SamplingParams, SessionParams
from sglcore.runner.edits import Edit
from sglcore.scheduler import PauseMode, Scheduler

log = logging.getLogger("sglcore.engine")

NOTHING = SamplingParams(max_new_tokens=0)
MAX_HIDDEN_VALUES = 2**24  # of one request: 64 MiB as numbers, several times that as JSON
Flight = tuple[Batch, PendingStep, "list[Edit] | None"]


class Engine:
    """One scheduler and one executor, taking turns. Not thread-safe: one loop drives it."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: StepExecutor,
        *,
        overlap: bool,
        keeper: CacheKeeper | None = None,
        processors: Processors | None = None,
        hidden_size: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.keeper = keeper or CacheKeeper(scheduler.ledger)
        self.executor = executor
        self.processors = processors or Processors()
        self._capture_next: Callable[[], bool] | None = getattr(executor, "capture_next", None)
        self.hidden_size = hidden_size  # of a model that gives hidden states, else 0
        self.step: Callable[[], list[RequestOutput]] = self.step_overlapped if overlap else self.step_plain
        self.overlap = overlap
        self.steps = 0
        self._flight: Flight | None = None
        self._rate = Throughput()

    # -- the two loops --

    def step_plain(self) -> list[RequestOutput]:
        """One whole step; returns what it adds to each request."""
        batch = self._plan()
        self.executor.forward(batch)
        flight = self._sample(batch)
        try:
            return self._commit(*flight)
        except OutOfMemory as error:
            return self._smaller([batch], error)

    def step_overlapped(self) -> list[RequestOutput]:
        """Queue the next step, then commit the one before while it runs."""
        batch = self._plan()
        if batch.idle and self._flight is None:
            return self.scheduler.take_outbox()
        landing, self._flight = self._flight, None
        if not batch.idle:
            self.executor.forward(batch)
        try:
            outputs = self._commit(*landing) if landing is not None else []
        except OutOfMemory as error:
            return self._smaller([*landing[:1], *self._drained(batch)], error)  # type: ignore[index]
        if not batch.idle:
            self._flight = self._sample(batch)
        return outputs

    def _drained(self, batch: Batch) -> list[Batch]:
        """The step queued behind one that was lost: it has read tokens that are not there, and is lost as well."""
        if batch.idle:
            return []
        with suppress(OutOfMemory):
            self.executor.sample(batch).wait()
        return [batch]

    def _smaller(self, lost: list[Batch], error: OutOfMemory) -> list[RequestOutput]:
        """Plan the lost steps' rows again, in smaller steps. Raises the error where there are none."""
        if not self.scheduler.lost(lost):
            raise error
        log.warning("A step of %d tokens was lost: %s Smaller ones follow.", lost[0].num_tokens, error)
        return self.scheduler.take_outbox()

    def _plan(self) -> Batch:
        batch = self.scheduler.plan()
        self.processors.seats(batch)
        return batch

    def _sample(self, batch: Batch) -> Flight:
        edits = self.processors.edits(batch)
        return batch, self.executor.sample(batch, edits), edits

    def _commit(self, batch: Batch, pending: PendingStep, edits: list[Edit] | None) -> list[RequestOutput]:
        result = pending.wait()
        self.processors.landed(batch, result, edits)
        outputs = self.scheduler.commit(batch, result)
        self.steps += 1
        self._rate.add(sum(len(out.token_ids) for out in outputs))
        self.keeper.publish()
        return outputs

    def prepare(self) -> bool:
        """Do a piece of what is better done before it is needed, between steps; False if nothing is left of it."""
        if self._capture_next is not None and not self._capture_next():
            self._capture_next = None
        return self._capture_next is not None

    # -- the door --

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do, a step still in flight included."""
        return self.scheduler.has_work or self._flight is not None

    def add(self, request: GenerateRequest) -> None:
        """Raises RequestError if the request is refused."""
        if request.return_hidden_states:
            self._check_hidden(request)
        self.scheduler.add(request)

    def _check_hidden(self, request: GenerateRequest) -> None:
        positions = len(request.input_ids) // 4 + request.sampling.max_new_tokens
        values = positions * self.hidden_size * request.n
        if not self.hidden_size:
            message, remedy = "the served model's plugin does not give hidden states", "Leave it out."
        elif values > MAX_HIDDEN_VALUES:
            message = f"{positions} positions of {self.hidden_size} for n {request.n} are more than {MAX_HIDDEN_VALUES}"
            remedy = "Send a shorter prompt or a lower max_new_tokens."
        else:
            return
        raise RequestError(
            f"`return_hidden_states`: {message}.",
            param="return_hidden_states",
            code="unsupported_parameter" if not self.hidden_size else None,
            remedy=remedy,
        )

    @property
    def sleep(self) -> float | None:
        """Seconds for which there will be no work if nothing arrives: until a deadline passes; None for ever."""
        due = self.scheduler.deadlines.next
        return None if due is None else max(due - self.scheduler.clock(), 0.0)

    def pause(self, mode: str) -> None:
        """See `Scheduler.pause`. Raises RequestError for a mode there is not."""
        if mode not in get_args(PauseMode):
            raise RequestError(f"`mode` is {mode!r}; it must be abort, retract or in_place.", param="mode")
        self.scheduler.pause(cast("PauseMode", mode))

    def open_session(self, session_id: str, capacity: int = 0) -> str:
        """Open a session; returns its id. Raises RequestError."""
        return self.scheduler.sessions.start(session_id, capacity, self.scheduler.clock())

    def close_session(self, session_id: str) -> None:
        """Forget a session. Raises RequestError if there is none."""
        self.scheduler.sessions.end(session_id, self.scheduler.clock())

    def restore_session(self, rid: str, session: Any, input_ids: bytes, output_ids: bytes, since: float = 0.0) -> None:
        """Take in what was said in a session before this engine lived (int32 bytes). Raises RequestError."""
        asked = GenerateRequest(
            rid=rid,
            input_ids=input_ids,
            sampling=NOTHING,
            session=msgspec.convert(session, SessionParams),
            resume=Resume(tokens=(output_ids,), since=since),
        )
        output = np.frombuffer(output_ids, dtype="<i4")
        self.scheduler.sessions.restore(asked, output, self.scheduler.clock())

    def abort(self, rid: str) -> int:
        """End the request with this id, or all with this prefix; its last output comes from the next step."""
        return self.scheduler.abort(rid)

    def flush_cache(self) -> None:
        """Empty the prefix cache. Raises RequestError while requests run."""
        self.scheduler.flush()
        self.keeper.publish()

    def stats(self) -> dict[str, Any]:
        """A snapshot of counters, for metrics and `/server_info`."""
        s = self.scheduler
        ledger = s.ledger
        total = ledger.allocators[0].total
        used = total - ledger.allocators[0].free - int(ledger.tree.evictable[0])
        prompt = s.counts["prompt_tokens"]
        return {
            "num_running_reqs": s.running,
            "num_queue_reqs": len(s.queue),
            "num_used_tokens": used * ledger.page_size,
            "max_total_num_tokens": total * ledger.page_size,
            "token_usage": used / total,
            "cached_pages": int(ledger.tree.cached[0]),
            "free_pages": ledger.allocators[0].free,
            "cache_hit_rate": s.counts["cached_tokens"] / prompt if prompt else 0.0,
            "gen_throughput": self._rate.per_second(),
            "new_token_ratio": s.ratio.value,
            "num_queue_tokens": s.queue.tokens,
            "num_sessions": len(s.sessions),
            "session_tokens": s.sessions.tokens,
            "paused": s.paused,
            "steps": self.steps,
            "prefix_cache": ledger.stats() | {"events_dropped": self.keeper.dropped},
            **s.counts,
        }

    def close(self) -> None:
        """Wait for the device and release it. Idempotent."""
        self._flight = None
        self.keeper.close()
        self.executor.close()


class Throughput:
    """Tokens per second over the last window of busy time."""

    WINDOW = 5.0

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._tokens = 0
        self._last = 0.0

    def add(self, tokens: int) -> None:
        self._tokens += tokens
        elapsed = time.monotonic() - self._start
        if elapsed >= self.WINDOW:
            self._last = self._tokens / elapsed
            self._start, self._tokens = time.monotonic(), 0

    def per_second(self) -> float:
        """0 when the last window is long past."""
        elapsed = time.monotonic() - self._start
        if elapsed > 2 * self.WINDOW:
            return 0.0
        return self._tokens / elapsed if not self._last and elapsed > 0.5 else self._last


class Observers:
    """Calls the `on_step` and `on_request_finished` hooks, resolved once, only if somebody listens."""

    INTERVAL = 0.1

    def __init__(self, hooks: Hooks, stats: Callable[[], Mapping[str, Any]]) -> None:
        self._on_step = hooks.on_step if hooks.on_step.get_hookimpls() else None
        self._on_finished = hooks.on_request_finished if hooks.on_request_finished.get_hookimpls() else None
        self._stats = stats
        self._last = 0.0

    def after_step(self, outputs: list[RequestOutput]) -> None:
        """Tell observers, at most every 100 ms about the engine and once per finished branch."""
        if self._on_finished is not None:
            for out in outputs:
                if out.finish is not None:
                    self._on_finished(summary=summary(out))
        if self._on_step is not None and time.monotonic() - self._last >= self.INTERVAL:
            self._last = time.monotonic()
            self._on_step(stats=self._stats())


def summary(out: RequestOutput) -> dict[str, Any]:
    """What `on_request_finished` is told."""
    return {
        "rid": out.rid,
        "branch": out.branch,
        "finish": out.finish.type if out.finish else None,
        "prompt_tokens": out.prompt_tokens,
        "cached_tokens": out.cached_tokens,
        "queue_time": out.queue_time,
        "retractions": out.retractions,
    }
