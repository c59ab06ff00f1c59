"""Changes: what the runner has to be told with the next batch, gathered while the step is planned."""

from __future__ import annotations

import numpy as np

from sglcore.batch import Batch, RowEntry
from sglcore.memory.ledger import NewPages
from sglcore.memory.rows import RowTable
from sglcore.request import Branch
from sglcore.scheduler.wanted import hidden_states

NO_ROWS = np.empty(0, dtype=np.int32)
NO_FLAGS = np.empty(0, dtype=bool)
Chunks = list[tuple[int, int]]


class Changes:
    """Rows that entered or left and pages that were added since the last batch, which takes them along."""

    def __init__(self, rows: RowTable, taken: list[Branch | None]) -> None:
        self.rows = rows
        self.taken = taken
        self.entered: list[RowEntry] = []
        self.left: list[int] = []
        self.new_pages: list[NewPages] = []
        self.hidden = np.zeros(rows.size, dtype=bool)  # rows whose hidden states are wanted
        self._serial = 0

    def batch(self, decode: np.ndarray, chunks: Chunks) -> Batch:
        """The step: `decode` rows take one token each from the device's table, `chunks` are (row, prompt tokens).

        Marks the rows as planned and in flight. An idle step carries nothing: it may never reach the runner.
        """
        self._serial += 1
        if not len(decode) and not chunks:
            return Batch(self._serial, NO_ROWS, NO_ROWS, NO_ROWS, NO_FLAGS, NO_FLAGS, NO_ROWS)
        t, decoding = self.rows, len(decode)
        rows = decode if not chunks else np.concatenate([decode, np.array([r for r, _ in chunks], np.int32)])
        starts = t.planned[rows]
        counts = np.ones(len(rows), dtype=np.int32)
        if chunks:
            counts[decoding:] = [c for _, c in chunks]
        ends = starts + counts
        t.planned[rows] = ends
        samples = ends >= t.prefill_end[rows]
        t.target[rows] += samples
        t.in_flight[rows] += 1
        from_table = np.zeros(len(rows), dtype=bool)
        from_table[:decoding] = True
        ids = [t.tokens[r, s : s + c] for (r, c), s in zip(chunks, starts[decoding:].tolist(), strict=True)]
        batch = Batch(
            serial=self._serial,
            rows=rows,
            starts=starts,
            counts=counts,
            from_table=from_table,
            samples=samples,
            token_ids=np.concatenate(ids) if ids else NO_ROWS,
            entered=self.entered,
            left=self.left,
            new_pages=_joined(self.new_pages),
            input_logprobs=self._input_logprobs(chunks, starts[decoding:], decoding) if chunks else {},
            hidden_states=hidden_states(self.hidden, self.taken, rows, starts, counts),
        )
        self.entered, self.left, self.new_pages = [], [], []
        return batch

    def _input_logprobs(self, chunks: Chunks, starts: np.ndarray, decoding: int) -> dict[int, tuple[int, np.ndarray]]:
        """For rows in prefill that asked: from which computed position on, and the prompt tokens that follow."""
        wanted: dict[int, tuple[int, np.ndarray]] = {}
        for i, ((row, count), start) in enumerate(zip(chunks, starts.tolist(), strict=True), decoding):
            branch = self.taken[row]
            assert branch is not None
            if branch.logprobs_from < 0:
                continue
            first = max(start, branch.logprobs_from - 1)
            last = min(start + count, branch.request.prompt_tokens - 1)
            if first < last:
                wanted[i] = (first - start, self.rows.tokens[row, first + 1 : last + 1].copy())
                branch.logprobs_from = last + 1
        return wanted


def _joined(parts: list[NewPages]) -> NewPages:
    parts = [p for p in parts if p]
    if len(parts) < 2:
        return parts[0] if parts else ()
    groups = range(len(parts[0]))
    return tuple(tuple(np.concatenate([p[g][k] for p in parts]) for k in range(3)) for g in groups)  # type: ignore[misc]
