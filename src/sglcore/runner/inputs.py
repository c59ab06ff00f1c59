"""The only place where a Batch's integers become tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sglcore.batch import Batch
from sglcore.contracts.attention import AttentionBatch
from sglcore.contracts.models import ForwardInputs

if TYPE_CHECKING:
    from sglcore.contracts.attention import AttentionBackend, KVView
    from sglcore.contracts.models import KVGroup
    from sglcore.runner.rows import DeviceRows


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
    ) -> None:
        self.rows = rows
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
        inputs = ForwardInputs(
            ids=self._ids(batch),
            positions=self._to(positions),
            attn=self.attention.plan(
                tuple(self._attention(g, batch, row_of, positions) for g in range(len(self.groups)))
            ),
            kv=self.kv,
            sample_index=self._to(sample_index),
            hidden_index=self._to(np.concatenate(hidden).astype(np.int64)) if hidden else None,
        )
        counts = {i: len(index) for i, index in zip(batch.hidden_states, hidden, strict=True)}
        return StepTensors(inputs, (batch.starts + batch.counts - 1).astype(np.int64), spans, counts)

    def _ids(self, batch: Batch) -> torch.Tensor:
        """Decode rows, which stand first, read the token the device sampled last; the rest is known."""
        decoding = int(batch.from_table.sum())
        parts: list[torch.Tensor] = []
        if decoding:
            parts.append(self.rows.last[self._to(batch.rows[:decoding].astype(np.int64))])
        if len(batch.token_ids):
            parts.append(self._to(batch.token_ids.astype(np.int64)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attention(self, group: int, batch: Batch, row_of: np.ndarray, positions: np.ndarray) -> AttentionBatch:
        kv_lens = (batch.starts + batch.counts).astype(np.int32)
        max_kv = int(kv_lens.max())
        table = self.rows.pages[group]
        pages = -(-max_kv // self.page_size)
        row_index, position = self._to(row_of), self._to(positions)
        page = table[row_index, torch.div(position, self.page_size, rounding_mode="floor")].to(torch.int64)
        return AttentionBatch(
            q_lens=self._to(batch.counts.astype(np.int32)),
            kv_lens=self._to(kv_lens),
            page_table=table[self._to(batch.rows.astype(np.int64)), :pages],
            slots=page * self.page_size + position % self.page_size,
            max_q_len=int(batch.counts.max()),
            max_kv_len=max_kv,
            page_size=self.page_size,
            group=self.groups[group],
            q_lens_host=batch.counts,
            kv_lens_host=kv_lens,
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

    def _to(self, array: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.rows.device, non_blocking=True)
