"""What a request may do to its logits before they are sampled: penalties, biases, a least length.

State is made when the first request asks for it, on the rank that samples, and holds only the rows that use it. A row
that takes its seat again (after a retraction) is rebuilt from its tokens. In this order, in place: repetition penalty,
frequency and presence penalty, bias, which are one op; then processors, which the engine hands in; then the least
length. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from sglcore.batch import Batch, RowEntry

if TYPE_CHECKING:
    from sglcore.runner.transfers import Transfers


class Slots:
    """Seats of a table that grows by doubling; most rows never take one. Slot 0 is nobody's and holds zeros."""

    def __init__(self, rows: int) -> None:
        self.of = np.zeros(rows, dtype=np.int64)  # by row
        self.size = 1
        self._free: list[int] = []

    def take(self, row: int) -> int:
        """A slot for `row`; `size` may have grown."""
        if not self.of[row]:
            if not self._free:
                grown = max(4, 2 * self.size)
                self._free = list(range(grown - 1, self.size - 1, -1))
                self.size = grown
            self.of[row] = self._free.pop()
        return int(self.of[row])

    def give(self, row: int) -> None:
        """The row needs none any more. Idempotent."""
        if self.of[row]:
            self._free.append(int(self.of[row]))
            self.of[row] = 0


class Penalties:
    """Counts of the tokens generated so far, marks of the prompt's, and biases, of the rows with any of them."""

    def __init__(self, rows: int, vocab: int, device: torch.device, transfers: Transfers) -> None:
        self.slots, self.bias_slots = Slots(rows), Slots(rows)
        self.counts = torch.zeros((1, vocab), dtype=torch.int32, device=device)  # [slots, vocab], of the output
        self.prompt = torch.zeros((1, vocab), dtype=torch.bool, device=device)  # [slots, vocab]
        self.bias = torch.zeros((1, vocab), dtype=torch.float32, device=device)  # [bias slots, vocab]
        self._rules = np.ones((rows, 3), dtype=np.float32)  # frequency, presence, repetition; of rows with a slot
        self._transfers = transfers

    def enter(self, entry: RowEntry) -> None:
        """A row takes its seat, with all its tokens so far."""
        sampling, row, send = entry.sampling, entry.row, self._transfers.send
        if sampling.penalized:
            slot = self.slots.take(row)
            self.counts, self.prompt = _grown(self.counts, self.slots.size), _grown(self.prompt, self.slots.size)
            (tokens,) = send(entry.tokens.astype(np.int64))
            output = tokens[entry.prompt :]
            self.counts[slot].zero_().index_add_(0, output, torch.ones_like(output, dtype=torch.int32))
            self.prompt[slot].zero_().index_fill_(0, tokens[: entry.prompt], True)
            self._rules[row] = sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty
        if bias := sampling.logit_bias:
            slot = self.bias_slots.take(row)
            self.bias = _grown(self.bias, self.bias_slots.size)
            ids, values = send(np.array([*bias], np.int64), np.array([*bias.values()], np.float32))
            self.bias[slot].zero_().index_copy_(0, ids, values)

    def leave(self, row: int) -> None:
        """The row's seat is free. Idempotent."""
        self.slots.give(row)
        self.bias_slots.give(row)

    def count(self, batch: Batch, tokens: torch.Tensor) -> None:
        """`tokens` int64 [rows] on the device were sampled."""
        slots = self.slots.of[batch.rows] * batch.samples
        if len(index := np.flatnonzero(slots)):
            where, lines = self._transfers.send(index, slots[index] * self.counts.shape[1])
            ones = torch.ones_like(lines, dtype=torch.int32)
            self.counts.view(-1).index_add_(0, lines + tokens[where], ones)

    def arguments(self, batch: Batch) -> list[torch.Tensor]:
        """What `FusedOps.penalise` takes beside the logits; nothing where no row of the batch has a slot."""
        slots, biased = self.slots.of[batch.rows], self.bias_slots.of[batch.rows]
        index = np.flatnonzero((slots | biased) * batch.samples)
        if not len(index):
            return []
        places = np.stack((index, slots[index], biased[index]))
        return [*self._transfers.send(places, self._rules[batch.rows[index]]), self.counts, self.prompt, self.bias]


def penalise(
    logits: torch.Tensor,
    places: torch.Tensor,
    rules: torch.Tensor,
    counts: torch.Tensor,
    prompt: torch.Tensor,
    bias: torch.Tensor,
) -> None:
    """See `contracts.ops.FusedOps.penalise`, step by step."""
    rows, slots, biased = places
    frequency, presence, repetition = rules.t()[..., None]  # [n, 1] each
    part, counted = logits[rows], counts[slots]
    used = counted > 0
    scaled = torch.where(part > 0, part / repetition, part * repetition)
    part = torch.where(used | prompt[slots], scaled, part)
    logits[rows] = part - counted * frequency - used * presence + bias[biased]


class LeastLength:
    """Rows that may not end before a position, and the tokens that would end them."""

    def __init__(self, rows: int, eos_ids: tuple[int, ...], transfers: Transfers) -> None:
        self._transfers = transfers
        self.until = np.zeros(rows, dtype=np.int64)  # length of prompt and output from which on the row may end
        self._eos = eos_ids
        self._stops: dict[int, np.ndarray] = {}

    def enter(self, entry: RowEntry) -> None:
        """A row takes its seat."""
        self.until[entry.row] = entry.prompt + entry.sampling.min_new_tokens
        self._stops[entry.row] = np.unique([*self._eos, *entry.sampling.stop_token_ids]).astype(np.int64)

    def leave(self, row: int) -> None:
        """The row's seat is free. Idempotent."""
        self.until[row] = 0
        self._stops.pop(row, None)

    def apply(self, logits: torch.Tensor, index: np.ndarray, rows: np.ndarray) -> None:
        """Forbid the end in the logits at `index` (in the batch), those of `rows`."""
        stops = [self._stops[row] for row in rows.tolist()]
        where, tokens = self._transfers.send(np.repeat(index, [len(s) for s in stops]), np.concatenate(stops))
        logits[where, tokens] = float("-inf")


class Shaping:
    """Both of them, made when first asked for. A batch without any costs a look-up."""

    def __init__(
        self,
        rows: int,
        vocab: int,
        eos_ids: tuple[int, ...],
        device: torch.device,
        transfers: Transfers,
        penalise: Callable[..., None] = penalise,
    ) -> None:
        """penalise: as `FusedOps` has it."""
        self._make = lambda: Penalties(rows, vocab, device, transfers)
        self._penalise = penalise
        self.penalties: Penalties | None = None
        self.least = LeastLength(rows, eos_ids, transfers)
        self._using = np.zeros(rows, dtype=bool)

    def seats(self, batch: Batch) -> None:
        """Take in who left and who entered."""
        for row in batch.left:
            if self._using[row]:
                self._leave(row)
        for entry in batch.entered:
            sampling = entry.sampling
            if self._using[entry.row]:
                self._leave(entry.row)
            if sampling.penalized or sampling.logit_bias or sampling.min_new_tokens:
                self._enter(entry)

    def shapes(self, batch: Batch) -> bool:
        """Whether some row of the batch that samples is one of its."""
        return bool(self._using.any() and (self._using[batch.rows] & batch.samples).any())

    def apply(self, logits: torch.Tensor, batch: Batch) -> None:
        """Penalties and biases of the rows that sample; `logits` float32 [rows, vocab], in place."""
        if self.penalties is not None and (given := self.penalties.arguments(batch)):
            self._penalise(logits, *given)

    def forbid_end(self, logits: torch.Tensor, batch: Batch) -> None:
        """The least length of the rows that sample; `logits` [rows, vocab], in place."""
        if not self._using.any():
            return
        index = np.flatnonzero((batch.starts + batch.counts < self.least.until[batch.rows]) & batch.samples)
        if len(index):
            self.least.apply(logits, index, batch.rows[index])

    def sampled(self, batch: Batch, tokens: torch.Tensor) -> None:
        """`tokens` int64 [rows] on the device were sampled: count them where that matters."""
        if self.penalties is not None:
            self.penalties.count(batch, tokens)

    def _enter(self, entry: RowEntry) -> None:
        sampling = entry.sampling
        self._using[entry.row] = True
        if sampling.penalized or sampling.logit_bias:
            self.penalties = self.penalties or self._make()
            self.penalties.enter(entry)
        if sampling.min_new_tokens:
            self.least.enter(entry)

    def _leave(self, row: int) -> None:
        self._using[row] = False
        if self.penalties is not None:
            self.penalties.leave(row)
        self.least.leave(row)


def _grown(table: torch.Tensor, size: int) -> torch.Tensor:
    """The same rows in a table of `size` rows, the new ones zero."""
    if table.shape[0] >= size:
        return table
    grown = table.new_zeros((size, table.shape[1]))
    grown[: table.shape[0]] = table
    return grown
