"""What a request may do to its logits before they are sampled: penalties, biases, a least length.

State is made when the first request asks for it, on the rank that samples, and holds only the rows that use it. A row
that takes its seat again (after a retraction) is rebuilt from its tokens. In this order, in place: repetition penalty,
frequency and presence penalty, bias; then processors, which the engine hands in; then the least length.
"""

from __future__ import annotations

import numpy as np
import torch

from sglcore.batch import Batch, RowEntry


class Slots:
    """Seats of a table that grows by doubling; most rows never take one."""

    def __init__(self, rows: int) -> None:
        self.of = np.full(rows, -1, dtype=np.int64)  # by row
        self.size = 0
        self._free: list[int] = []

    def take(self, row: int) -> int:
        """A slot for `row`; `size` may have grown."""
        if self.of[row] < 0:
            if not self._free:
                grown = max(4, 2 * self.size)
                self._free = list(range(grown - 1, self.size - 1, -1))
                self.size = grown
            self.of[row] = self._free.pop()
        return int(self.of[row])

    def give(self, row: int) -> None:
        """The row needs none any more. Idempotent."""
        if self.of[row] >= 0:
            self._free.append(int(self.of[row]))
            self.of[row] = -1


class Penalties:
    """Counts of the tokens generated so far and marks of the prompt's, of the rows with a penalty."""

    def __init__(self, rows: int, vocab: int, device: torch.device) -> None:
        self.slots = Slots(rows)
        self.counts = torch.zeros((0, vocab), dtype=torch.int32, device=device)  # [slots, vocab], of the output
        self.prompt = torch.zeros((0, vocab), dtype=torch.bool, device=device)  # [slots, vocab]
        self._frequency, self._presence = np.zeros((2, rows), dtype=np.float32)
        self._repetition = np.ones(rows, dtype=np.float32)

    def enter(self, entry: RowEntry) -> None:
        """A row takes its seat, with all its tokens so far."""
        sampling, row = entry.sampling, entry.row
        slot = self.slots.take(row)
        self.counts, self.prompt = _grown(self.counts, self.slots.size), _grown(self.prompt, self.slots.size)
        tokens = _to(entry.tokens.astype(np.int64), self.counts.device)
        vocab = self.counts.shape[1]
        self.counts[slot] = torch.bincount(tokens[entry.prompt :], minlength=vocab).to(torch.int32)
        self.prompt[slot] = False
        self.prompt[slot, tokens[: entry.prompt]] = True
        self._frequency[row], self._presence[row] = sampling.frequency_penalty, sampling.presence_penalty
        self._repetition[row] = sampling.repetition_penalty

    def count(self, rows: np.ndarray, tokens: torch.Tensor) -> None:
        """`tokens` int64 [n] on the device were sampled by `rows`, each of which has a slot."""
        slots = _to(self.slots.of[rows], tokens.device)
        self.counts.index_put_((slots, tokens), torch.ones_like(tokens, dtype=torch.int32), accumulate=True)

    def apply(self, logits: torch.Tensor, index: np.ndarray, rows: np.ndarray) -> None:
        """Change the logits at `index` (in the batch), those of `rows`."""
        device = logits.device
        where, slots = _to(index, device), _to(self.slots.of[rows], device)
        counts, part = self.counts[slots], logits[where]
        used = counts > 0
        repetition = self._repetition[rows]
        if (repetition != 1).any():
            scale = _to(repetition, device)[:, None]
            scaled = torch.where(part > 0, part / scale, part * scale)
            part = torch.where(used | self.prompt[slots], scaled, part)
        frequency, presence = self._frequency[rows], self._presence[rows]
        if frequency.any() or presence.any():
            part -= counts * _to(frequency, device)[:, None]
            part -= used * _to(presence, device)[:, None]
        logits[where] = part


class Biases:
    """What is added to a row's logits; [slots, vocab]."""

    def __init__(self, rows: int, vocab: int, device: torch.device) -> None:
        self.slots = Slots(rows)
        self.values = torch.zeros((0, vocab), dtype=torch.float32, device=device)

    def enter(self, entry: RowEntry) -> None:
        """A row takes its seat."""
        bias = entry.sampling.logit_bias
        slot = self.slots.take(entry.row)
        self.values = _grown(self.values, self.slots.size)
        self.values[slot] = 0
        ids = torch.tensor(list(bias), dtype=torch.int64, device=self.values.device)
        self.values[slot, ids] = torch.tensor(list(bias.values()), dtype=torch.float32, device=self.values.device)

    def apply(self, logits: torch.Tensor, index: np.ndarray, rows: np.ndarray) -> None:
        """Change the logits at `index` (in the batch), those of `rows`."""
        slots = _to(self.slots.of[rows], logits.device)
        logits[_to(index, logits.device)] += self.values[slots]


class LeastLength:
    """Rows that may not end before a position, and the tokens that would end them."""

    def __init__(self, rows: int, eos_ids: tuple[int, ...]) -> None:
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
        where = torch.from_numpy(np.repeat(index, [len(s) for s in stops])).to(logits.device, non_blocking=True)
        logits[where, _to(np.concatenate(stops), logits.device)] = float("-inf")


class Shaping:
    """The three of them, made when first asked for. A batch without any costs two look-ups."""

    def __init__(self, rows: int, vocab: int, eos_ids: tuple[int, ...], device: torch.device) -> None:
        self._rows, self._vocab, self._device = rows, vocab, device
        self.penalties: Penalties | None = None
        self.biases: Biases | None = None
        self.least = LeastLength(rows, eos_ids)
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
        """Penalties and biases of the rows that sample; `logits` [rows, vocab], in place."""
        if not self._using.any():
            return
        for part in (self.penalties, self.biases):
            if part is not None:
                index = np.flatnonzero((part.slots.of[batch.rows] >= 0) & batch.samples)
                if len(index):
                    part.apply(logits, index, batch.rows[index])

    def forbid_end(self, logits: torch.Tensor, batch: Batch) -> None:
        """The least length of the rows that sample; `logits` [rows, vocab], in place."""
        if not self._using.any():
            return
        index = np.flatnonzero((batch.starts + batch.counts < self.least.until[batch.rows]) & batch.samples)
        if len(index):
            self.least.apply(logits, index, batch.rows[index])

    def sampled(self, batch: Batch, tokens: torch.Tensor) -> None:
        """`tokens` int64 [rows] on the device were sampled: count them where that matters."""
        if self.penalties is not None and self._using.any():
            index = np.flatnonzero((self.penalties.slots.of[batch.rows] >= 0) & batch.samples)
            if len(index):
                self.penalties.count(batch.rows[index], tokens[_to(index, tokens.device)])

    def _enter(self, entry: RowEntry) -> None:
        sampling = entry.sampling
        self._using[entry.row] = True
        if sampling.penalized:
            self.penalties = self.penalties or Penalties(self._rows, self._vocab, self._device)
            self.penalties.enter(entry)
        if sampling.logit_bias:
            self.biases = self.biases or Biases(self._rows, self._vocab, self._device)
            self.biases.enter(entry)
        if sampling.min_new_tokens:
            self.least.enter(entry)

    def _leave(self, row: int) -> None:
        self._using[row] = False
        for part in (self.penalties, self.biases):
            if part is not None:
                part.slots.give(row)
        self.least.leave(row)


def _to(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """On the device, without waiting for it."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def _grown(table: torch.Tensor, size: int) -> torch.Tensor:
    """The same rows in a table of `size` rows, the new ones zero."""
    if table.shape[0] >= size:
        return table
    grown = table.new_zeros((size, table.shape[1]))
    grown[: table.shape[0]] = table
    return grown
