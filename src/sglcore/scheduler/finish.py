"""When a branch ends: stop ids, length, and what a row's last token says about it."""

from __future__ import annotations

import numpy as np

from sglcore.memory.rows import RowTable
from sglcore.request import Branch, FinishReason


class StopCheck:
    """Decides for all rows of a step at once which of them a new token ends."""

    def __init__(self, eos_ids: tuple[int, ...], rows: RowTable) -> None:
        self.eos = np.asarray(sorted(eos_ids), dtype=np.int32)
        self.rows = rows
        self._custom: dict[int, frozenset[int]] = {}  # row -> its own stop ids

    def seat(self, row: int, branch: Branch) -> None:
        """Learn a newly seated branch's stop ids."""
        sampling = branch.request.asked.sampling
        self.rows.stops[row] = not sampling.ignore_eos
        self._custom.pop(row, None)
        if sampling.stop_token_ids:
            self._custom[row] = frozenset(sampling.stop_token_ids)

    def ended(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """bool [rows]: the token just appended ends the row."""
        table = self.rows
        ended = (self._is_eos(tokens) & table.stops[rows]) | (table.length[rows] >= table.limit[rows])
        if self._custom:
            ended |= np.array(
                [t in self._custom.get(r, ()) for r, t in zip(rows.tolist(), tokens.tolist(), strict=True)], bool
            )
        return ended

    def _is_eos(self, tokens: np.ndarray) -> np.ndarray:
        found = np.zeros(
            len(tokens), dtype=bool
        )  # a comparison for each of the few ids: np.isin takes ten times as long
        for eos in self.eos:
            found |= tokens == eos
        return found

    def reason(self, row: int, token: int) -> FinishReason:
        """Why the row ended with this token. A stop id wins over the length."""
        if (self.rows.stops[row] and token in self.eos) or token in self._custom.get(row, ()):
            return FinishReason("stop", matched=token)
        return FinishReason("length")
