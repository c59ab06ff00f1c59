"""DecodeGraphs: decoding steps captured once for a padded number of rows, and replayed with one copy to the device.

A captured step does all of it on the device: it takes in the pages that were added, finds its input ids where the last
step left them, runs the model, draws a token a row, and leaves it for the next step. Rows beyond the batch's compute
the table's spare row, whose token nobody reads and whose pages are nobody's.

Captures are taken between steps, all in one pool of memory: that of the largest, the first, serves the others.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sglcore.batch import Batch
from sglcore.contracts.attention import AttentionBatch
from sglcore.contracts.models import ForwardInputs

if TYPE_CHECKING:
    from sglcore.contracts.execution import DeviceLauncher, Replay
    from sglcore.contracts.models import Model
    from sglcore.runner.inputs import InputBuilder


@dataclass(slots=True)
class Captured:
    """One graph: its input int32 [2 + 2 groups, rows] and what it leaves.

    Of the input the first rows are seats and starts, then for each group where in its table pages go, and which.
    """

    size: int
    replay: Replay
    inputs: torch.Tensor
    tokens: torch.Tensor  # int64 [rows]
    finite: torch.Tensor  # bool [rows]
    meta: Any
    batches: tuple[AttentionBatch, ...]


class DecodeGraphs:
    """The captured steps of one runner, by number of rows. Used on the device thread."""

    def __init__(
        self,
        model: Model,
        builder: InputBuilder,
        launcher: DeviceLauncher,
        draw: Any,
        sizes: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        """dtype: of the model's activations, in which the logits are kept until somebody wants them in float32."""
        self.model = model
        self.builder = builder
        self.rows = builder.rows
        self.launcher = launcher
        self.draw = draw
        self.sizes = sorted(sizes)
        self._refresh = getattr(builder.attention, "refresh", None)
        self._captured: dict[int, Captured] = {}
        # Made before the first capture, so that results outlive the replays of other sizes.
        self.logits = torch.empty((self.sizes[-1], model.vocab_size), dtype=dtype, device=self.rows.device)

    @property
    def missing(self) -> list[int]:
        """Sizes that are not captured yet, those that are wanted first in front: see `order`."""
        return [size for size in order(self.sizes) if size not in self._captured]

    def size_for(self, batch: Batch) -> int:
        """The captured size that this step fits; 0 where there is none: it holds a prompt, or too many rows."""
        if not batch.from_table.all() or batch.entered or batch.hidden_states:
            return 0
        at = bisect.bisect_left(self.sizes, len(batch.rows))
        if at == len(self.sizes) or self.sizes[at] not in self._captured:
            return 0
        if any(len(row) > self.sizes[at] for row, _, _ in batch.new_pages):
            return 0  # nothing but decoding adds pages, and one a row at most: kept, for whoever plans otherwise
        return self.sizes[at]

    def run(self, batch: Batch, size: int) -> Captured:
        """Queue the step; its results are there until the next replay is queued."""
        captured = self._captured[size]
        self.launcher.upload(self._packed(batch, size), captured.inputs)
        if self._refresh is not None:
            lens = np.ones(size, np.int32)
            lens[: len(batch.rows)] = batch.starts + 1
            for part in captured.batches:
                part.kv_lens_host = lens
            self._refresh(captured.meta, captured.batches)
        captured.replay.replay()
        return captured

    def capture(self, size: int) -> None:
        """Capture the step for `size` rows. Takes as long as the host needs to queue it three times."""
        inputs = self.launcher.upload(self._packed(None, size))
        replay, left = self.launcher.capture(lambda: self._step(inputs, size))
        self._captured[size] = Captured(size, replay, inputs, *left)

    def _packed(self, batch: Batch | None, size: int) -> np.ndarray:
        """int32 [2 + 2 groups, size]: padding is the spare row, which has no length, and its last place for pages."""
        rows = self.rows
        groups, real = len(rows.pages), 0 if batch is None else len(batch.rows)
        packed = np.zeros((2 + 2 * groups, size), dtype=np.int32)
        packed[0] = rows.size
        packed[2 : 2 + groups] = (rows.size + 1) * rows.pages_per_row - 1
        packed[2 + groups :] = rows.spare
        if batch is not None:
            packed[0, :real], packed[1, :real] = batch.rows, batch.starts
            for g, (row, index, page) in enumerate(batch.new_pages):
                packed[2 + g, : len(row)] = row * rows.pages_per_row + index
                packed[2 + groups + g, : len(row)] = page
        return packed

    def _step(self, inputs: torch.Tensor, size: int) -> tuple[Any, ...]:
        rows, table, groups = self.rows, self.builder, len(self.rows.pages)
        where = inputs.long()
        for g, pages in enumerate(rows.pages):
            pages.view(-1).index_copy_(0, where[2 + g], inputs[2 + groups + g])
        seats, starts = where[0], where[1]
        batches = tuple(self._attention(g, seats, starts) for g in range(groups))
        meta = table.attention.plan(batches)
        out = self.logits[:size]
        forward = ForwardInputs(rows.last[seats], starts, meta, table.kv, None, logits=out)
        logits = self.model.forward(forward)
        if logits is not out:
            out.copy_(logits)
        tokens, finite = self.draw(out, rows.heat[seats], rows.seeds[seats], starts + 1, rows.floor[seats])
        rows.last.index_copy_(0, seats, tokens)
        return tokens, finite, meta, batches

    def _attention(self, group: int, seats: torch.Tensor, starts: torch.Tensor) -> AttentionBatch:
        size, page_size = len(seats), self.builder.page_size
        pages = self.rows.pages[group][seats]
        page = pages.gather(1, (starts // page_size)[:, None]).squeeze(1).long()
        return AttentionBatch(
            q_lens=torch.ones(size, dtype=torch.int32, device=self.rows.device),
            kv_lens=(starts + 1).to(torch.int32),
            page_table=pages,
            slots=page * page_size + starts % page_size,
            max_q_len=1,
            max_kv_len=self.rows.pages_per_row * page_size,
            page_size=page_size,
            group=self.builder.groups[group],
            q_lens_host=np.ones(size, np.int32),
            kv_lens_host=np.ones(size, np.int32),
        )


def order(sizes: Sequence[int]) -> list[int]:
    """The largest, whose memory serves the others; powers of two, so that any step fits one; the rest."""
    powers = [size for size in sizes if size & (size - 1) == 0]
    return list(dict.fromkeys([max(sizes), *powers, *sizes]))


def sizes_up_to(most: int, asked: Sequence[int] = ()) -> list[int]:
    """Numbers of rows to capture, up to `most`: close together where a step is cheap, wider apart above."""
    if asked:
        return sorted({size for size in asked if 0 < size <= most})
    sizes = [1, 2, 4, *range(8, 257, 8), *range(272, 513, 16), *range(544, 2049, 32)]
    return sorted({*(size for size in sizes if size <= most), most})
