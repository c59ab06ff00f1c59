"""Landing: a step whose kernels are queued and whose results are on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from sglcore.batch import Batch, StepResult
from sglcore.request import HiddenStates
from sglcore.runner.logprobs import Asked, token_logprobs
from sglcore.runner.rows import DeviceRows
from sglcore.runner.transfers import Transfers

if TYPE_CHECKING:
    from sglcore.contracts.execution import Pending
    from sglcore.runner.inputs import StepTensors


@dataclass(slots=True)
class Results:
    """What a step will tell: device tensors, and how each part is told once they are on the host."""

    batch: Batch
    tokens: torch.Tensor  # int64 [rows], those that did not sample hold anything
    finite: torch.Tensor  # bool [rows]
    logprobs: list[tuple[Sequence[int], Asked]] = field(default_factory=list)  # output tokens': places in the batch
    input_logprobs: list[tuple[int, Asked]] = field(default_factory=list)  # of prompts: place in the batch
    hidden_states: torch.Tensor | None = None
    hidden_counts: dict[int, int] = field(default_factory=dict)

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in the order that `told` takes."""
        asked = [*(a for _, a in self.logprobs), *(a for _, a in self.input_logprobs)]
        states = [] if self.hidden_states is None else [self.hidden_states.to(torch.float32)]
        return [self.tokens, self.finite, *(t for a in asked for t in a.tensors), *states]

    def told(self, arrays: list[np.ndarray]) -> StepResult:
        """The step's result from those tensors' values."""
        finite = arrays[1]
        result = StepResult(
            tokens=arrays[0].astype(np.int32)[:, None],
            num_tokens=(self.batch.samples & finite).astype(np.int32),
            finite=finite,
        )
        at = 2
        for index, asked in self.logprobs:
            found = asked.told(arrays[at : at + len(asked.tensors)])
            result.logprobs.update(zip(index, found, strict=True))
            at += len(asked.tensors)
        for i, asked in self.input_logprobs:
            result.input_logprobs[i] = asked.told(arrays[at : at + len(asked.tensors)])
            at += len(asked.tensors)
        first = 0
        for i, count in self.hidden_counts.items():
            part = arrays[at][first : first + count]
            result.hidden_states[i] = HiddenStates(part.shape[1], part.astype("<f4").tobytes())
            first += count
        return result


class Landing:
    """Implements `contracts.PendingStep`. `launched` gives (Results, what fetches them), or None for an idle step."""

    __slots__ = ("_launched",)

    def __init__(self, launched: Pending) -> None:
        self._launched = launched

    def wait(self) -> StepResult:
        """Block until the step's tokens are on the host; raises what the step raised."""
        queued = self._launched.wait()
        if queued is None:
            return StepResult(np.empty((0, 1), np.int32), np.empty(0, np.int32), np.empty(0, bool))
        results, fetched = queued
        return results.told(fetched.wait())


def wanted_logprobs(
    results: Results, rows: DeviceRows, tensors: StepTensors | None, logits: torch.Tensor, transfers: Transfers
) -> None:
    """Queue output logprobs of rows that asked, and input logprobs of the spans in this step (`tensors`)."""
    batch = results.batch
    wanted = rows.logprobs[batch.rows]
    index = np.flatnonzero(batch.samples & (wanted >= 0))
    if len(index):
        seats = batch.rows[index]
        heat = np.where(rows.temperature[seats] > 0, rows.temperature[seats], 1).astype(np.float32)
        where, hot = transfers.send(index, heat)
        ids = [rows.logprob_ids.get(row, ()) for row in seats.tolist()]
        asked = token_logprobs(logits[where], results.tokens[where], wanted[index].tolist(), ids, hot)
        results.logprobs.append((index.tolist(), asked))
    for i, first, targets in tensors.logprob_spans if tensors is not None else ():
        count, row = len(targets), int(batch.rows[i])
        (target,) = transfers.send(targets.astype(np.int64))
        ids, top = [rows.logprob_ids.get(row, ())] * count, [int(rows.logprobs[row])] * count
        results.input_logprobs.append((i, token_logprobs(logits[first : first + count], target, top, ids)))
