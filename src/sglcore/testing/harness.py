"""A minimal paged pool and a driver for models, for tests: pages are handed out in a shuffled order, and every
page that no row owns is full of NaN, so that reading a wrong slot shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sglcore.contracts.attention import AttentionBatch
from sglcore.contracts.models import ForwardInputs, KVGroup

if TYPE_CHECKING:
    from sglcore.contracts.attention import AttentionBackend
    from sglcore.contracts.models import Model

NOWHERE = 2**30  # stands in page tables where nothing may be read


@dataclass
class PagedRow:
    """A sequence in the pool: its pages by group and how many tokens are in. planned: how long it will get."""

    planned: int
    pages: list[list[int]] = field(default_factory=list)
    length: int = 0


class PagedPool:
    """Implements `contracts.KVView` for tests. consecutive: hand pages out in order instead of shuffled."""

    def __init__(
        self,
        groups: Sequence[KVGroup],
        *,
        pages: int,
        page_size: int,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        consecutive: bool = False,
        seed: int = 0,
    ) -> None:
        self.groups = tuple(groups)
        self.page_size = page_size
        self.device = device
        order = np.arange(pages) if consecutive else np.random.default_rng(seed).permutation(pages)
        self.free = [order.tolist()[::-1] for _ in self.groups]
        self._layers: dict[int, tuple[torch.Tensor, ...]] = {}  # keys and values, or latents
        for group in self.groups:
            shape = (pages, page_size, group.kv_heads, group.head_dim)
            for layer in group.layers:
                empty = torch.full(shape, float("nan"), device=device).to(dtype)  # in two steps, for 8 bit types
                self._layers[layer] = (empty,) if group.kind == "latent" else (empty, empty.clone())

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values), each [pages, page_size, kv_heads, head_dim]."""
        keys, values = self._layers[index]
        return keys, values

    def latent(self, index: int) -> torch.Tensor:
        """Of a group of kind "latent", [pages, page_size, 1, head_dim]."""
        (latents,) = self._layers[index]
        return latents

    def row(self, planned: int) -> PagedRow:
        """A new, empty row."""
        return PagedRow(planned, [[] for _ in self.groups])

    def step(self, work: Sequence[tuple[PagedRow, int]]) -> tuple[AttentionBatch, ...]:
        """Grow rows by their counts of new tokens and describe the step, one batch a group."""
        for row, count in work:
            row.length += count
            for group, pages in enumerate(row.pages):
                while len(pages) * self.page_size < row.length:
                    pages.append(self.free[group].pop())
        return tuple(self._batch(group, work) for group in range(len(self.groups)))

    @contextmanager
    def spoiled(self, rows: Sequence[PagedRow], value: float) -> Iterator[None]:
        """For the length of a `with`: `value` in every slot that holds no token of these rows, then all as it was."""
        kept = {layer: [tensor.clone() for tensor in tensors] for layer, tensors in self._layers.items()}
        for number, group in enumerate(self.groups):
            own = torch.zeros(self._layers[group.layers[0]][0].shape[:2], dtype=torch.bool)
            for row in rows:
                for position in range(row.length):
                    own[row.pages[number][position // self.page_size], position % self.page_size] = True
            for layer in group.layers:
                for tensor in self._layers[layer]:
                    tensor[~own.to(self.device)] = torch.tensor(value).to(tensor.dtype)
        try:
            yield
        finally:
            for layer, tensors in kept.items():
                for tensor, before in zip(self._layers[layer], tensors, strict=True):
                    tensor.copy_(before)

    def _batch(self, group: int, work: Sequence[tuple[PagedRow, int]]) -> AttentionBatch:
        counts = np.array([count for _, count in work], np.int32)
        lengths = np.array([row.length for row, _ in work], np.int32)
        width = -(-int(lengths.max()) // self.page_size) + 1
        table = np.full((len(work), width), NOWHERE, np.int32)
        slots: list[int] = []
        for i, (row, count) in enumerate(work):
            pages = row.pages[group]
            table[i, : len(pages)] = pages
            for position in range(row.length - count, row.length):
                slots.append(pages[position // self.page_size] * self.page_size + position % self.page_size)
        return AttentionBatch(
            q_lens=self._tensor(counts),
            kv_lens=self._tensor(lengths),
            page_table=self._tensor(table),
            slots=self._tensor(np.array(slots, np.int64)),
            max_q_len=int(counts.max()),
            max_kv_len=int(lengths.max()),
            page_size=self.page_size,
            group=self.groups[group],
            q_lens_host=counts,
            kv_lens_host=lengths,
        )

    def _tensor(self, array: np.ndarray) -> Any:
        return torch.from_numpy(array).to(self.device)


class ModelHarness:
    """Runs a built model over rows of token ids, without scheduler, ledger or runner."""

    def __init__(
        self,
        model: Model,
        attention: AttentionBackend,
        *,
        pages: int = 256,
        page_size: int = 1,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        consecutive: bool = False,
    ) -> None:
        self.model = model
        self.attention = attention
        self.pool = PagedPool(
            model.kv_groups(), pages=pages, page_size=page_size, dtype=dtype, device=device, consecutive=consecutive
        )
        self.device = device

    def row(self, planned: int) -> PagedRow:
        """A new, empty row that is to hold `planned` tokens."""
        return self.pool.row(planned)

    def inputs(
        self, work: Sequence[tuple[PagedRow, Sequence[int]]], sample_index: Sequence[int] | None = None
    ) -> ForwardInputs:
        """One step's inputs: each row's next token ids."""
        starts = [row.length for row, _ in work]
        batches = self.pool.step([(row, len(ids)) for row, ids in work])
        positions = [p for start, (_, ids) in zip(starts, work, strict=True) for p in range(start, start + len(ids))]
        lengths = [max(row.planned, row.length) for row, ids in work for _ in ids]
        return ForwardInputs(
            ids=torch.tensor([token for _, ids in work for token in ids], device=self.device),
            positions=torch.tensor(positions, device=self.device),
            attn=self.attention.plan(batches),
            kv=self.pool,
            sample_index=None
            if sample_index is None
            else torch.tensor(sample_index, dtype=torch.int64, device=self.device),
            extra={"sequence_lengths": torch.tensor(lengths, device=self.device)},
        )

    def run(self, work: Sequence[tuple[PagedRow, Sequence[int]]]) -> list[torch.Tensor]:
        """One step -> for each row, logits float32 [new tokens, vocab]."""
        with torch.inference_mode():
            logits = self.model.forward(self.inputs(work))
        return list(logits.split([len(ids) for _, ids in work]))
