"""Edits: what logits processors do to the rows of one step, each failure kept to the row it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from sglcore.contracts.logits_processors import LogitsProcessor


@dataclass(slots=True)
class Edit:
    """One processor's rows in one step. `index` int64 [n] are places in the batch, `states` one for each.

    errors: place in the batch -> what the processor raised for that row; written on the device thread, read when the
    step has landed.
    """

    processor: LogitsProcessor
    index: np.ndarray
    states: Sequence[Any]
    errors: dict[int, Exception] = field(default_factory=dict)

    def apply(self, logits: torch.Tensor) -> None:
        """Change `logits` float32 [rows, vocab] in place. What fails for all rows together is tried row by row."""
        rows = torch.from_numpy(self.index).to(logits.device, non_blocking=True)
        before = logits[rows]
        try:
            self.processor.apply(logits, rows, self.states)
            return
        except Exception as error:
            if len(self.index) == 1:
                self.errors[int(self.index[0])] = error
                return
        logits[rows] = before
        for i, state in enumerate(self.states):
            one = Edit(self.processor, self.index[i : i + 1], [state])
            one.apply(logits)
            self.errors.update(one.errors)


def apply_edits(edits: Sequence[Edit], logits: torch.Tensor, finite: torch.Tensor) -> torch.Tensor:
    """Let all processors at the logits; `finite` bool [rows] less the rows that were left no token to choose."""
    for edit in edits:
        edit.apply(logits)
    rows = torch.from_numpy(np.concatenate([edit.index for edit in edits])).to(logits.device, non_blocking=True)
    left = torch.ones_like(finite)
    left[rows] = torch.isfinite(logits[rows].amax(-1))
    return finite & left
