"""Replay a trace: plan, let virtual time pass, commit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sglcore.batch import Batch, StepResult
from sglcore.contracts.policies import Policy
from sglcore.errors import ConfigError, RequestError
from sglcore.memory.ledger import GroupPages, KVLedger
from sglcore.memory.rows import RowTable
from sglcore.request import GenerateRequest, RequestOutput, SamplingParams, pack_ids
from sglcore.scheduler import Limits, Scheduler
from sglcore.scheduler.priority import PriorityRules
from sglcore.simulation.trace import VOCAB, CostModel, TraceRequest


@dataclass(frozen=True)
class Machine:
    """What is simulated. tokens: of the KV pool. rows: seats. chunk: prompt tokens a step."""

    tokens: int = 200_000
    page_size: int = 16
    rows: int = 256
    chunk: int = 2048
    cache: bool = True
    priority: bool = False
    queued: int | None = None


@dataclass(slots=True)
class Moment:
    """One step: when it ended, and what there was then."""

    time: float
    running: int
    waiting: int
    used: float  # share of the pool
    prompt_tokens: int  # so far
    cached_tokens: int  # so far


@dataclass(slots=True)
class Life:
    """One request's times, in seconds from the start; NaN where it never came to that."""

    at: float
    first: float = math.nan
    end: float = math.nan
    how: str = ""
    tokens: int = 0


@dataclass
class Result:
    """All that was seen."""

    lives: list[Life]
    moments: list[Moment] = field(default_factory=list)
    computed: int = 0  # tokens
    counts: dict[str, int] = field(default_factory=dict)


class Simulator:
    """One scheduler over one trace. Raises ConfigError where a request could never fit the machine."""

    def __init__(self, trace: Sequence[TraceRequest], machine: Machine, cost: CostModel, policy: Policy) -> None:
        self.trace = trace
        self.cost = cost
        self.now = 0.0
        context = max(r.prompt + r.output for r in trace) + 1
        pages = machine.tokens // machine.page_size
        if pages * machine.page_size < context:
            raise ConfigError(
                f"The longest request has {context - 1} tokens, the pool {pages * machine.page_size}.",
                remedy="Give a larger --max-total-tokens.",
            )
        table = RowTable(machine.rows, context, -(-context // machine.page_size) + 1, 1)
        self.ledger = KVLedger([GroupPages(pages, 0)], machine.page_size, table, cache=machine.cache)
        limits = Limits(
            chunk=machine.chunk,
            vocab_size=VOCAB,
            queued=machine.queued,
            priority=PriorityRules(enabled=machine.priority),
        )
        self.scheduler = Scheduler(self.ledger, table, policy, limits, (), clock=lambda: self.now)
        self.result = Result([Life(r.at) for r in trace])
        self._arrived = 0
        self._aborts = sorted((max(r.abort_at, r.at), i) for i, r in enumerate(trace) if r.abort_at is not None)

    def run(self) -> Result:
        """To the end of the last request."""
        scheduler = self.scheduler
        while self._arrived < len(self.trace) or scheduler.has_work:
            self._events()
            if not scheduler.has_work:
                self.now = self.trace[self._arrived].at
                continue
            batch = scheduler.plan()
            self.now += self._cost(batch)
            for out in scheduler.commit(batch, _computed(batch)):
                self._note(out)
            self._moment(batch)
        self.result.counts = scheduler.counts
        self.ledger.check()
        return self.result

    def _events(self) -> None:
        """Take in who has come and let go who has left by now."""
        while self._arrived < len(self.trace) and self.trace[self._arrived].at <= self.now:
            self._arrive(self._arrived)
            self._arrived += 1
        while self._aborts and self._aborts[0][0] <= self.now:
            self.scheduler.abort(str(self._aborts.pop(0)[1]))

    def _arrive(self, number: int) -> None:
        asked = self.trace[number]
        sampling = SamplingParams(max_new_tokens=asked.output, ignore_eos=True, temperature=0.0)
        request = GenerateRequest(
            rid=str(number), input_ids=pack_ids(asked.token_ids(number)), sampling=sampling, priority=asked.priority
        )
        try:
            self.scheduler.add(request)
        except RequestError as error:
            self.result.lives[number].how = error.code or "refused"

    def _cost(self, batch: Batch) -> float:
        if batch.idle:
            return 0.0
        decode = int(batch.from_table.sum())
        prefill = batch.num_tokens - decode
        self.result.computed += batch.num_tokens
        return self.cost.of(prefill, decode, int((batch.starts + batch.counts).sum()))

    def _note(self, out: RequestOutput) -> None:
        life = self.result.lives[int(out.rid)]
        life.tokens += len(out.token_ids)
        if out.token_ids and math.isnan(life.first):
            life.first = self.now
        if out.finish is not None:
            life.end, life.how = self.now, out.finish.type

    def _moment(self, batch: Batch) -> None:
        s, pages = self.scheduler, self.ledger.allocators[0]
        used = 1.0 - (pages.free + int(self.ledger.tree.evictable[0])) / pages.total
        counts = s.counts
        self.result.moments.append(
            Moment(self.now, len(batch.rows), len(s.queue), used, counts["prompt_tokens"], counts["cached_tokens"])
        )


def _computed(batch: Batch) -> StepResult:
    """What a device would have said: a token for every row that samples."""
    rows = len(batch.rows)
    tokens = np.where(batch.samples, 1 + (batch.starts + batch.counts) % (VOCAB - 1), -1).astype(np.int32)
    return StepResult(tokens[:, None], batch.samples.astype(np.int32), np.ones(rows, bool))


def summary(result: Result) -> dict[str, Any]:
    """The figures of a run: counts, seconds, shares."""
    lives, moments = result.lives, result.moments
    how = Counter(life.how for life in lives)
    done = [life for life in lives if life.how == "length"]
    span = max((life.end for life in done), default=0.0) - min(life.at for life in lives)
    tokens = sum(life.tokens for life in lives)
    return {
        "requests": len(lives),
        "finished": len(done),
        "aborted": how["abort"],
        "refused": len(lives) - how["length"] - how["abort"],
        "seconds": round(span, 3),
        "output_tokens_per_second": round(tokens / max(span, 1e-9), 1),
        **_percentiles("ttft", np.array([life.first - life.at for life in done])),
        **_percentiles("e2e", np.array([life.end - life.at for life in done])),
        "mean_batch": round(float(np.mean([m.running for m in moments])), 1),
        "longest_queue": max(m.waiting for m in moments),
        "cache_hit_share": round(result.counts["cached_tokens"] / max(result.counts["prompt_tokens"], 1), 4),
        "computed_tokens": result.computed,
        "retractions": result.counts["retractions"],
        "preemptions": result.counts["preemptions"],
        "steps": len(moments),
    }


def _percentiles(name: str, seconds: np.ndarray) -> dict[str, float]:
    found = np.percentile(seconds, [50, 95]) if len(seconds) else np.full(2, math.nan)
    return {f"{name}_p50": round(float(found[0]), 4), f"{name}_p95": round(float(found[1]), 4)}
