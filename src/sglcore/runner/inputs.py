"""The only place where a Batch's integers become tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sglcore.batch import Batch
from sglcore.contracts.attention import AttentionBatch
from sglcore.contracts.models import ForwardInputs

if TYPE_CHECKING:
    from sglcore.contracts.attention import AttentionBackend, KVView
    from sglcore.contracts.models import KVGroup
    from sglcore.runner.rows import DeviceRows
    from sglcore.runner.transfers import Transfers


@dataclass(frozen=True, slots=True)
class Seats:
    """Which row computes what, on the device and (`_host`) beside it."""

    row_of: torch.Tensor  # int64 [tokens]
    positions: torch.Tensor  # int64 [tokens]
    rows: torch.Tensor  # int64 [rows]
    counts: torch.Tensor  # int32 [rows]
    kv_lens: torch.Tensor  # int32 [rows]
    counts_host: np.ndarray
    kv_lens_host: np.ndarray


@dataclass(slots=True)
class StepTensors:
    """A step ready to run: the model's inputs, and where each row's logits will be.

    The first len(rows) logits are the rows' last positions, in batch order (also of rows that do not
    sample: their finiteness is checked); after them come the positions whose input logprobs were asked for.
    """

    inputs: ForwardInputs
    positions_last: np.ndarray  # int64 [rows]: position of each row's last computed token
    logprob_spans: list[tuple[int, int, np.ndarray]]  # (index in batch, first logit, wanted token ids)
    hidden_counts: dict[int, int]  # index in batch -> how many of `hidden_index` are its, in this order


class InputBuilder:
    """Builds StepTensors from a Batch and the device rows."""

    def __init__(
        self,
        rows: DeviceRows,
        groups: tuple[KVGroup, ...],
        page_size: int,
        attention: AttentionBackend,
        kv: KVView,
        transfers: Transfers,
    ) -> None:
        self.rows = rows
        self.transfers = transfers
        self.groups = groups
        self.page_size = page_size
        self.attention = attention
        self.kv = kv

    def build(self, batch: Batch) -> StepTensors:
        """Tensors for one step; `batch` is not idle and its deltas have been applied."""
        ends = np.cumsum(batch.counts)
        row_of = np.repeat(batch.rows, batch.counts).astype(np.int64)
        offset = np.arange(ends[-1]) - np.repeat(ends - batch.counts, batch.counts)
        positions = (np.repeat(batch.starts, batch.counts) + offset).astype(np.int64)
        sample_index, spans = self._wanted(batch, ends)
        hidden = [np.arange(ends[i] - batch.counts[i] + first, ends[i]) for i, first in batch.hidden_states.items()]
        kv_lens = (batch.starts + batch.counts).astype(np.int32)
        sent = self.transfers.send(
            row_of,
            positions,
            sample_index,
            batch.rows.astype(np.int64),
            batch.counts.astype(np.int32),
            kv_lens,
            batch.token_ids.astype(np.int64),
            np.concatenate(hidden).astype(np.int64) if hidden else np.empty(0, np.int64),
        )
        seats = Seats(sent[0], sent[1], sent[3], sent[4], sent[5], batch.counts, kv_lens)
        inputs = ForwardInputs(
            ids=self._ids(batch, seats, sent[6]),
            positions=seats.positions,
            attn=self.attention.plan(tuple(self._attention(g, seats) for g in range(len(self.groups)))),
            kv=self.kv,
            sample_index=sent[2],
            hidden_index=sent[7] if hidden else None,
        )
        counts = {i: len(index) for i, index in zip(batch.hidden_states, hidden, strict=True)}
        return StepTensors(inputs, (batch.starts + batch.counts - 1).astype(np.int64), spans, counts)

    def _ids(self, batch: Batch, seats: Seats, known: torch.Tensor) -> torch.Tensor:
        """Decode rows, which stand first, read the token the device sampled last; the rest is known."""
        decoding = int(batch.from_table.sum())
        if not decoding:
            return known
        sampled = self.rows.last[seats.rows[:decoding]]
        return torch.cat((sampled, known)) if len(batch.token_ids) else sampled

    def _attention(self, group: int, seats: Seats) -> AttentionBatch:
        max_kv = int(seats.kv_lens_host.max())
        table = self.rows.pages[group]
        pages = -(-max_kv // self.page_size)
        position = seats.positions
        page = table[seats.row_of, torch.div(position, self.page_size, rounding_mode="floor")].to(torch.int64)
        return AttentionBatch(
            q_lens=seats.counts,
            kv_lens=seats.kv_lens,
            page_table=table[seats.rows, :pages],
            slots=page * self.page_size + position % self.page_size,
            max_q_len=int(seats.counts_host.max()),
            max_kv_len=max_kv,
            page_size=self.page_size,
            group=self.groups[group],
            q_lens_host=seats.counts_host,
            kv_lens_host=seats.kv_lens_host,
        )

    def _wanted(self, batch: Batch, ends: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, np.ndarray]]]:
        index = [(ends - 1).astype(np.int64)]
        spans, first = [], len(batch.rows)
        for i, (start, tokens) in batch.input_logprobs.items():
            begin = int(ends[i] - batch.counts[i]) + start
            index.append(np.arange(begin, begin + len(tokens)))
            spans.append((i, first, tokens))
            first += len(tokens)
        return np.concatenate(index), spans
