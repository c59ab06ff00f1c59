"""RowTable: the seats of running branches, and the host's counters for each, as arrays.

Everything the scheduler asks of many rows at once is one numpy expression here, so a step over 256
rows costs no Python per row.
"""

from __future__ import annotations

import numpy as np


class RowTable:
    """`rows` seats, each for up to `context` tokens.

        0 ............ computed ............ planned ............ target
        | results are here | in flight            | known or sampled, to compute |

    `length` counts tokens whose ids the host knows; `target` also those sampled in flight. A row
    prefills while `planned < prefill_end`, decodes after. It may grow to `limit` tokens.
    """

    def __init__(self, rows: int, context: int, pages_per_row: int, groups: int) -> None:
        self.size = rows
        self.context = context
        self.tokens = np.zeros((rows, context), dtype=np.int32)
        self.length = np.zeros(rows, dtype=np.int32)
        self.computed = np.zeros(rows, dtype=np.int32)
        self.planned = np.zeros(rows, dtype=np.int32)
        self.target = np.zeros(rows, dtype=np.int32)
        self.prefill_end = np.zeros(rows, dtype=np.int32)
        self.limit = np.zeros(rows, dtype=np.int32)
        self.in_flight = np.zeros(rows, dtype=np.int32)
        self.active = np.zeros(rows, dtype=bool)  # seated and to be planned
        self.open = np.zeros(rows, dtype=bool)  # seated and still taking tokens
        self.stops = np.zeros(rows, dtype=bool)  # EOS ends it
        self.pages = [np.full((rows, pages_per_row), -1, dtype=np.int32) for _ in range(groups)]
        self.num_pages = np.zeros(rows, dtype=np.int32)  # the same for every group
        self._seats = list(range(rows - 1, -1, -1))

    @property
    def free_seats(self) -> int:
        return len(self._seats)

    @property
    def vacant(self) -> tuple[int, ...]:
        """The rows nobody sits in."""
        return tuple(self._seats)

    def seat(self, tokens: np.ndarray) -> int:
        """Give a free row to `tokens` (int32 [n]); its counters start at zero."""
        row = self._seats.pop()
        self.tokens[row, : len(tokens)] = tokens
        self.length[row] = self.target[row] = self.prefill_end[row] = len(tokens)
        self.computed[row] = self.planned[row] = self.num_pages[row] = self.in_flight[row] = 0
        self.active[row] = self.open[row] = True
        return row

    def leave(self, row: int) -> np.ndarray:
        """Free the seat; returns a copy of the row's known tokens."""
        tokens = self.tokens[row, : self.length[row]].copy()
        self.active[row] = self.open[row] = False
        self._seats.append(row)
        return tokens
