"""When pages run out: how many to keep back for running rows, and who steps aside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sglcore.memory.ledger import KVLedger
from sglcore.memory.rows import RowTable

# Share of the tokens still allowed to running rows that admission keeps pages for: starts high, falls
# while all goes well, jumps up when a row had to be retracted.
INITIAL, LOWEST, DECAY_STEPS = 0.7, 0.1, 600
LONGEST_ESTIMATE = 4096


class NewTokenRatio:
    """How much of its remaining allowance a running row is expected to use."""

    def __init__(self) -> None:
        self.value = INITIAL

    def step(self) -> None:
        """One step without trouble."""
        self.value = max(LOWEST, self.value - (INITIAL - LOWEST) / DECAY_STEPS)

    def raise_up(self) -> None:
        """A row was retracted: be careful again."""
        self.value = min(1.0, self.value + 0.1)

    def reserve_row(self, rows: RowTable, row: int) -> int:
        """`reserve` for one row."""
        return int(min(int(rows.limit[row]) - int(rows.target[row]), LONGEST_ESTIMATE) * self.value)

    def reserve(self, rows: RowTable, only: Sequence[int] = ()) -> int:
        """Tokens to keep free for the rows running now, or for `only` these."""
        which = list(only) or rows.active
        remaining = np.minimum(rows.limit[which] - rows.target[which], LONGEST_ESTIMATE)
        return int(remaining.sum() * self.value)


def cheapest(rows: RowTable, seniority: np.ndarray) -> int | None:
    """The row to retract: fewest generated tokens, youngest first; never the oldest, so that one always gets on."""
    candidates = np.flatnonzero(rows.active)
    if len(candidates) < 2:
        return None
    candidates = candidates[candidates != candidates[np.argmin(seniority[candidates])]]
    generated = rows.target[candidates] - rows.prefill_end[candidates]
    return int(candidates[np.lexsort((-seniority[candidates], generated))[0]])


def fit_by_seniority(rows: np.ndarray, seniority: np.ndarray, table: RowTable, ledger: KVLedger) -> np.ndarray:
    """Those of `rows` whose next page can be had now, the oldest served first; the others wait a step."""
    rows = rows[np.argsort(seniority[rows])]
    need = np.maximum(-(-(table.planned[rows] + 1) // ledger.page_size) - table.num_pages[rows], 0)
    return np.sort(rows[np.cumsum(need) <= ledger.available()])
