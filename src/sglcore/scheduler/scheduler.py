"""Scheduler: plan a step, commit its result. Continuous batching with chunked prefill mixed into decode.

`plan` needs counts and upper bounds, never token values, so it can run while the step before is
still on the device. `commit` is called once per plan, in order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from sglcore.batch import Batch, RowEntry, StepResult
from sglcore.contracts.policies import Policy
from sglcore.errors import RequestError
from sglcore.memory.ledger import KVLedger, NewPages
from sglcore.memory.rows import RowTable
from sglcore.request import Branch, FinishReason, GenerateRequest, Request, RequestOutput, TokenLogprobs
from sglcore.scheduler.finish import StopCheck
from sglcore.scheduler.pressure import NewTokenRatio, cheapest, fit_by_seniority
from sglcore.scheduler.queue import WaitingQueue, usable_prefix

NO_ROWS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Limits:
    """chunk: prompt tokens computed per step. queued: requests that may wait, None for no bound."""

    chunk: int
    vocab_size: int
    queued: int | None = None


class Scheduler:
    """Owns the life of every request in the engine; the only writer of `Branch` and `RowTable`."""

    def __init__(
        self, ledger: KVLedger, rows: RowTable, policy: Policy, limits: Limits, eos_ids: tuple[int, ...], seed: int = 0
    ) -> None:
        self.ledger = ledger
        self.rows = rows
        self.limits = limits
        self.queue = WaitingQueue(policy, ledger, rows)
        self.stop = StopCheck(eos_ids, rows)
        self.ratio = NewTokenRatio()
        self.requests: dict[str, Request] = {}
        self.seated: list[Branch | None] = [None] * rows.size
        self.outbox: list[RequestOutput] = []
        self.counts = {"prompt_tokens": 0, "cached_tokens": 0, "generated_tokens": 0, "retractions": 0, "aborted": 0}
        self._seeds = np.random.default_rng(seed)
        self._serial = 0
        self._seniority = np.zeros(rows.size, dtype=np.int64)
        self._admissions = 0
        self._entered: list[RowEntry] = []
        self._left: list[int] = []
        self._new_pages: list[NewPages] = []

    # -- the door --

    def add(self, asked: GenerateRequest) -> None:
        """Take a request in. Raises RequestError if it can never run, its id is in use, or the queue is full."""
        self._refuse_impossible(asked)
        seed = asked.sampling.seed
        request = Request(asked, int(self._seeds.integers(2**62)) if seed is None else seed)
        self.requests[asked.rid] = request
        now = time.monotonic()
        for branch in request.branches:
            branch.queued_at = now
            self.queue.push(branch)

    def abort(self, rid: str) -> int:
        """End the request `rid`, or all whose id starts with it ("" for all); returns how many it met. Idempotent."""
        met = [rid] if rid in self.requests else [r for r in self.requests if r.startswith(rid)]
        for found in met:
            self._end(self.requests[found], FinishReason("abort", message="Aborted."))
        self.counts["aborted"] += len(met)
        return len(met)

    def flush(self) -> None:
        """Empty the prefix cache. Raises RequestError while requests run or wait."""
        if self.has_work:
            raise RequestError(
                f"The cache cannot be flushed while {len(self.requests)} requests run or wait.",
                remedy="Try again when the engine is idle.",
            )
        self.ledger.flush()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.requests or self.outbox)

    @property
    def running(self) -> int:
        return int(self.rows.open.sum())

    # -- plan --

    def plan(self) -> Batch:
        """Decide the next step and reserve its pages. Idle batch if nothing can be computed."""
        decode = self._plan_decode()
        chunks = self._plan_prefill()
        rows = np.concatenate([decode, np.array([r for r, _ in chunks], dtype=np.int32)])
        counts = np.concatenate([np.ones(len(decode), np.int32), np.array([c for _, c in chunks], dtype=np.int32)])
        return self._build(rows, counts, len(decode))

    def _plan_decode(self) -> np.ndarray:
        t = self.rows
        ready = t.active & (t.planned >= t.prefill_end) & (t.planned < t.target) & (t.target < t.limit)
        rows = np.flatnonzero(ready).astype(np.int32)
        while len(rows):
            pages = self.ledger.reserve(rows, t.planned[rows] + 1)
            if pages is not None:
                self._new_pages.append(pages)
                break
            rows = self._relieve(rows)
        self.ratio.step()
        return rows

    def _relieve(self, rows: np.ndarray) -> np.ndarray:
        """Pages ran out: retract the cheapest row, or, while it is in flight, let the youngest rows wait a step."""
        victim = cheapest(self.rows, self._seniority)
        if victim is None and not self.rows.in_flight.any():
            # Alone, and still short: beside its own pages it locks the tree's copies of the same tokens. Seated
            # again it reads those, and gets on by a token at least.
            victim = int(rows[0])
        if victim is not None:
            self.ratio.raise_up()
            self._retract(victim)
            if self.seated[victim] is None:
                return rows[rows != victim]
        rows = rows[self.rows.active[rows]]
        return fit_by_seniority(rows, self._seniority, self.rows, self.ledger)

    def _retract(self, row: int) -> None:
        self.rows.active[row] = False
        self.counts["retractions"] += 1
        branch = self.seated[row]
        assert branch is not None
        branch.retractions += 1
        self._land(row)

    def _plan_prefill(self) -> list[tuple[int, int]]:
        """(row, tokens) for this step: first rows in mid-prompt, oldest first, then new ones."""
        t = self.rows
        budget = self.limits.chunk
        chunks: list[tuple[int, int]] = []
        unfinished = np.flatnonzero(t.active & (t.planned < t.prefill_end))
        for row in unfinished[np.argsort(self._seniority[unfinished])].tolist():
            if budget <= 0:
                return chunks
            budget -= self._chunk(row, budget, chunks)
        if budget <= 0 or not t.free_seats or not len(self.queue):
            return chunks
        for branch in self.queue.candidates(self.seated):
            if budget <= 0 or not t.free_seats or not self._admit(branch):
                break
            budget -= self._chunk(branch.row, budget, chunks)
        return chunks

    def _chunk(self, row: int, budget: int, chunks: list[tuple[int, int]]) -> int:
        count = min(budget, int(self.rows.prefill_end[row] - self.rows.planned[row]))
        chunks.append((row, count))
        return count

    def _admit(self, branch: Branch) -> bool:
        """Seat a branch, with pages for its whole prompt, unless the pages are wanted by those already running."""
        t = self.rows
        uncached = len(branch.tokens) - self.queue.matched(branch)
        wanted = self.ledger.pages_for(uncached) + self.ratio.reserve(t) // self.ledger.page_size
        if t.active.any() and wanted > self.ledger.available():
            return False
        row = t.seat(branch.tokens)
        cached = self.ledger.admit(row, branch.request.asked.namespace, usable_prefix(branch))
        prefix = tuple(p[row, : t.num_pages[row]].copy() for p in t.pages)
        pages = self.ledger.reserve(np.array([row], dtype=np.int32), np.array([len(branch.tokens)]))
        if pages is None:
            self.ledger.release(row, 0)
            t.leave(row)
            return False
        self.queue.remove(branch)
        self._seat(branch, row, cached, prefix)
        self._new_pages.append(pages)
        return True

    def _seat(self, branch: Branch, row: int, cached: int, prefix: tuple[np.ndarray, ...]) -> None:
        t, asked = self.rows, branch.request.asked
        t.planned[row] = t.computed[row] = cached
        t.limit[row] = branch.request.prompt_tokens + asked.sampling.max_new_tokens
        self._admissions += 1
        self._seniority[row] = self._admissions
        self.stop.seat(row, branch)
        self.seated[row] = branch
        branch.row = row
        if branch.cached < 0:
            branch.cached = cached
            branch.started_at = time.monotonic()
            self.counts["prompt_tokens"] += branch.request.prompt_tokens
            self.counts["cached_tokens"] += cached
            if asked.return_logprob and asked.logprob_start == 0:
                first = TokenLogprobs(None, int(branch.tokens[0]))  # nothing stands before it that could predict it
                self.outbox.append(_output(branch, [], None, None, [first]))
        self._entered.append(
            RowEntry(
                row=row,
                sampling=asked.sampling,
                seed=branch.request.seed,
                branch=branch.index,
                pages=prefix,
                logprobs=asked.top_logprobs if asked.return_logprob else -1,
            )
        )

    def _build(self, rows: np.ndarray, counts: np.ndarray, decoding: int) -> Batch:
        t = self.rows
        starts = t.planned[rows].copy()
        from_table = np.arange(len(rows)) < decoding
        t.planned[rows] += counts
        samples = t.planned[rows] >= t.prefill_end[rows]
        t.target[rows] += samples
        t.in_flight[rows] += 1
        spans = zip(rows[decoding:].tolist(), starts[decoding:].tolist(), counts[decoding:].tolist(), strict=True)
        ids = [t.tokens[r, s : s + c] for r, s, c in spans]
        self._serial += 1
        batch = Batch(
            serial=self._serial,
            rows=rows,
            starts=starts,
            counts=counts,
            from_table=from_table,
            samples=samples,
            token_ids=np.concatenate(ids) if ids else NO_ROWS,
            entered=self._entered,
            left=self._left,
            new_pages=_joined(self._new_pages),
            input_logprobs=self._input_logprobs(rows, starts, counts, decoding),
        )
        self._entered, self._left, self._new_pages = [], [], []
        return batch

    def _input_logprobs(
        self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, decoding: int
    ) -> dict[int, tuple[int, np.ndarray]]:
        """For rows in prefill that asked: from which computed position on, and the prompt tokens that follow."""
        wanted: dict[int, tuple[int, np.ndarray]] = {}
        for i in range(decoding, len(rows)):
            row, start = int(rows[i]), int(starts[i])
            branch = self.seated[row]
            assert branch is not None
            if branch.logprobs_from < 0:
                continue
            first = max(start, branch.logprobs_from - 1)
            last = min(start + int(counts[i]), branch.request.prompt_tokens - 1)
            if first < last:
                wanted[i] = (first - start, self.rows.tokens[row, first + 1 : last + 1].copy())
                branch.logprobs_from = last + 1
        return wanted

    # -- commit --

    def commit(self, batch: Batch, result: StepResult) -> list[RequestOutput]:
        """Take a step's tokens in: append, finish, cache prefixes, free what is done. Returns what clients get."""
        t, rows = self.rows, batch.rows
        t.in_flight[rows] -= 1
        t.computed[rows] = np.where(result.finite, batch.starts + batch.counts, 0)  # NaN pages are never shared
        self._fail_not_finite(rows, result.finite)
        outputs = self._input_outputs(batch, result)
        for column in range(result.tokens.shape[1]):
            take = np.flatnonzero((result.num_tokens > column) & t.open[rows])
            outputs += self._append(batch, take, result.tokens[take, column], result)
        self._cache_prompts(batch)
        for row in rows[(t.in_flight[rows] == 0) & ~t.active[rows]].tolist():
            self._land(row)
        return self.take_outbox() + outputs

    def take_outbox(self) -> list[RequestOutput]:
        """Outputs that no step made: aborts and refusals."""
        ready, self.outbox = self.outbox, []
        return ready

    def _append(self, batch: Batch, take: np.ndarray, tokens: np.ndarray, result: StepResult) -> list[RequestOutput]:
        t = self.rows
        rows = batch.rows[take]
        t.tokens[rows, t.length[rows]] = tokens
        t.length[rows] += 1
        self.counts["generated_tokens"] += len(rows)
        ended = self.stop.ended(rows, tokens)
        outputs = []
        for i, row, token, end in zip(take.tolist(), rows.tolist(), tokens.tolist(), ended.tolist(), strict=True):
            branch = self.seated[row]
            assert branch is not None
            finish = self.stop.reason(row, token) if end else None
            logprob = result.logprobs.get(i)
            outputs.append(_output(branch, [token], finish, [logprob] if logprob else None))
            if finish is not None:
                self._close(branch, finish)
        return outputs

    def _input_outputs(self, batch: Batch, result: StepResult) -> list[RequestOutput]:
        outputs = []
        for i, logprobs in result.input_logprobs.items():
            branch = self.seated[int(batch.rows[i])]
            if branch is not None and branch.finish is None:
                outputs.append(_output(branch, [], None, None, logprobs))
        return outputs

    def _fail_not_finite(self, rows: np.ndarray, finite: np.ndarray) -> None:
        for row in rows[~finite & self.rows.open[rows]].tolist():
            branch = self.seated[row]
            assert branch is not None
            finish = FinishReason(
                "error", message="The model produced NaN or infinite values for this request.", status=500
            )
            self.outbox.append(_output(branch, [], finish, None))
            self._close(branch, finish)

    def _cache_prompts(self, batch: Batch) -> None:
        """Prompts enter the tree as soon as they are computed, so that neighbours need not wait for the answer."""
        t = self.rows
        prefilling = (batch.starts < t.prefill_end[batch.rows]) & t.open[batch.rows]
        for row in batch.rows[prefilling].tolist():
            self.ledger.commit(row, int(t.computed[row]))

    def _close(self, branch: Branch, finish: FinishReason) -> None:
        """The branch takes no more tokens; its seat is freed when its last step has landed."""
        branch.finish = finish
        self.rows.active[branch.row] = self.rows.open[branch.row] = False
        if branch.request.finished:
            self.requests.pop(branch.rid, None)

    def _land(self, row: int) -> None:
        """Nothing of this inactive row is in flight any more: free its pages and its seat."""
        branch = self.seated[row]
        if branch is None or self.rows.in_flight[row]:
            return
        broken = branch.finish is not None and branch.finish.type == "error"
        self.ledger.release(row, 0 if broken else min(int(self.rows.computed[row]), int(self.rows.length[row])))
        tokens = self.rows.leave(row)
        self.seated[row] = None
        self._left.append(row)
        branch.row = -1
        if branch.finish is None:
            branch.tokens = tokens
            self.queue.push_back(branch)

    def _end(self, request: Request, finish: FinishReason) -> None:
        """End every open branch of a request now, whatever it is doing."""
        for branch in request.branches:
            if branch.finish is not None:
                continue
            self.outbox.append(_output(branch, [], finish, None))
            if branch.row < 0:
                self.queue.remove(branch)
                branch.finish = finish
                continue
            self._close(branch, finish)
            self._land(branch.row)
        self.requests.pop(request.rid, None)

    def _refuse_impossible(self, asked: GenerateRequest) -> None:
        tokens, new = len(asked.input_ids) // 4, max(asked.sampling.max_new_tokens, 1)  # every row samples once
        ids = asked.token_ids()
        if asked.rid in self.requests:
            raise RequestError(f"A request with id {asked.rid!r} is already running.", param="rid", status=400)
        if not tokens:
            raise RequestError("The prompt is empty.", param="input_ids", remedy="Send at least one token.")
        if ids.min() < 0 or ids.max() >= self.limits.vocab_size:
            raise RequestError(
                f"Token ids lie between {ids.min()} and {ids.max()}; the vocabulary has {self.limits.vocab_size}.",
                param="input_ids",
            )
        if tokens + new > self.rows.context:
            raise RequestError(
                f"{tokens} prompt tokens and {new} new ones exceed the context of {self.rows.context}.",
                param="max_new_tokens",
                code="context_length_exceeded",
            )
        if self.ledger.pages_for(tokens + new) > self.ledger.total:
            raise RequestError(
                f"{tokens} prompt tokens and {new} new ones need {self.ledger.pages_for(tokens + new)} pages; "
                f"the KV pool has {self.ledger.total}.",
                param="max_new_tokens",
                remedy="Ask for fewer tokens or start the server with a larger --max-total-tokens.",
            )
        if self.limits.queued is not None and len(self.queue) >= self.limits.queued + self.rows.free_seats:
            raise RequestError(
                f"{len(self.queue)} requests are waiting, the limit is {self.limits.queued}.",
                status=429,
                code="queue_full",
            )


def _output(
    branch: Branch,
    tokens: list[int],
    finish: FinishReason | None,
    logprobs: list | None,
    input_logprobs: list | None = None,
) -> RequestOutput:
    return RequestOutput(
        rid=branch.request.asked.rid,
        branch=branch.index,
        token_ids=tokens,
        finish=finish,
        prompt_tokens=branch.request.prompt_tokens,
        cached_tokens=max(branch.cached, 0),
        logprobs=logprobs,
        input_logprobs=input_logprobs,
        retractions=branch.retractions,
        queue_time=max(branch.started_at - branch.queued_at, 0.0),
        epoch=branch.request.asked.epoch,
    )


def _joined(parts: list[NewPages]) -> NewPages:
    parts = [p for p in parts if p]
    if len(parts) < 2:
        return parts[0] if parts else ()
    groups = range(len(parts[0]))
    return tuple(tuple(np.concatenate([p[g][k] for p in parts]) for k in range(3)) for g in groups)  # type: ignore[misc]
