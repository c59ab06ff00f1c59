"""Commit: a step's tokens into the books, and what each client gets of them."""

from __future__ import annotations

import numpy as np

from sglcore.batch import Batch, StepResult
from sglcore.request import FinishReason, RequestOutput
from sglcore.scheduler.finish import StopCheck
from sglcore.scheduler.lives import Lives
from sglcore.scheduler.outputs import output, stamped
from sglcore.scheduler.seats import Seats
from sglcore.scheduler.wanted import hidden_outputs

NOT_FINITE = FinishReason(
    "error", message="The model produced NaN or infinite values for this request.", status=500, code="not_finite"
)


class Commit:
    """Append, finish, cache prefixes, free what is done."""

    def __init__(self, seats: Seats, lives: Lives, stop: StopCheck) -> None:
        self.seats = seats
        self.rows = seats.rows
        self.lives = lives
        self.stop = stop
        self.generated = 0

    def take(self, batch: Batch, result: StepResult) -> list[RequestOutput]:
        """One step's results; called once per batch, in order."""
        t, rows = self.rows, batch.rows
        t.in_flight[rows] -= 1
        ends = batch.starts + batch.counts
        if result.finite.all():
            t.computed[rows] = ends
        else:
            t.computed[rows] = np.where(result.finite, ends, 0)  # NaN pages are never shared
            self._fail_not_finite(batch, result)
        outputs = self._input_outputs(batch, result) if result.input_logprobs else []
        if result.hidden_states:
            outputs += hidden_outputs(self.seats.taken, batch, result)
        for column in range(result.tokens.shape[1]):
            sampled = np.flatnonzero((result.num_tokens > column) & t.open[rows])
            outputs += self._append(rows[sampled], sampled, result.tokens[sampled, column], result)
        if not batch.from_table.all():
            self._cache_prompts(batch)
        for row in rows[(t.in_flight[rows] == 0) & ~t.active[rows]].tolist():
            self.seats.land(row)
        return outputs

    def lost(self, batch: Batch) -> None:
        """The step was not computed: its rows queue again with what they had, and are owed what it was to tell."""
        t, taken = self.rows, self.seats.taken
        t.in_flight[batch.rows] -= 1
        for i, row in enumerate(batch.rows.tolist()):
            branch = taken[row]
            if branch is None:
                continue
            if i in batch.input_logprobs:
                branch.logprobs_from = int(batch.starts[i]) + batch.input_logprobs[i][0] + 1
            if i in batch.hidden_states:
                branch.hidden_from = int(batch.starts[i]) + batch.hidden_states[i]
            if t.active[row]:
                self.seats.retract(row)
            else:
                self.seats.land(row)

    def _append(
        self, rows: np.ndarray, index: np.ndarray, tokens: np.ndarray, result: StepResult
    ) -> list[RequestOutput]:
        t, taken = self.rows, self.seats.taken
        t.tokens[rows, t.length[rows]] = tokens
        t.length[rows] += 1
        self.generated += len(rows)
        ended = self.stop.ended(rows, tokens)
        plain = rows.tolist()
        stamps = self.seats.stamps
        outputs = stamped([stamps[row] for row in plain], tokens.tolist())
        if result.logprobs:
            for i, at in enumerate(index.tolist()):
                found = result.logprobs.get(at)
                if found is not None:
                    outputs[i] = output(taken[plain[i]], outputs[i].token_ids, None, [found])
        for i in np.flatnonzero(ended).tolist():
            branch = taken[plain[i]]
            assert branch is not None
            finish = self.stop.reason(plain[i], int(tokens[i]))
            outputs[i] = output(branch, outputs[i].token_ids, finish, outputs[i].logprobs)
            self.lives.close(branch, finish)
        return outputs

    def _input_outputs(self, batch: Batch, result: StepResult) -> list[RequestOutput]:
        outputs = []
        for i, logprobs in result.input_logprobs.items():
            branch = self.seats.taken[int(batch.rows[i])]
            if branch is not None and branch.finish is None:
                outputs.append(output(branch, [], None, None, logprobs))
        return outputs

    def _fail_not_finite(self, batch: Batch, result: StepResult) -> None:
        for i in np.flatnonzero(~result.finite & self.rows.open[batch.rows]).tolist():
            branch = self.seats.taken[int(batch.rows[i])]
            assert branch is not None
            finish = result.failed.get(i, NOT_FINITE)
            self.lives.outbox.append(output(branch, [], finish))
            self.lives.close(branch, finish)

    def _cache_prompts(self, batch: Batch) -> None:
        """Prompts enter the tree as soon as they are computed, so that neighbours need not wait for the answer."""
        t = self.rows
        prefilling = (batch.starts < t.prefill_end[batch.rows]) & t.open[batch.rows]
        for row in batch.rows[prefilling].tolist():
            self.seats.ledger.commit(row, int(t.computed[row]))
