"""AttentionConformance: a backend against attention computed the long way in float64."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from sglcore.contracts.attention import AttentionBackend, AttentionSpec
from sglcore.contracts.models import KVGroup
from sglcore.testing.harness import PagedPool, PagedRow

# Rows of a few steps: (row, new tokens). Fresh prompts, chunks, cached prefixes and decoding, mixed.
RAGGED = [
    [(0, 7), (1, 1), (2, 33)],
    [(0, 1), (2, 5), (3, 20), (1, 1)],
    [(2, 1), (0, 1), (1, 16), (3, 1)],
    [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2)],
]
# Decoding alone, rows of like and of very unlike length; the numbers make portions, paddings and long rows appear.
DECODING = [
    [(0, 300), (1, 290), (2, 12), (3, 1), (4, 64)],
    [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)],
    [(4, 1), (2, 1), (0, 1), (1, 1)],
    [(1, 1)],
]


class AttentionConformance:
    """Subclass with `spec`; `device` and `heads` where the defaults do not fit.

    heads: (query heads, key/value heads) to try. tolerance: largest error allowed, by dtype name.
    """

    spec: AttentionSpec
    device: ClassVar[str] = "cpu"
    heads: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (9, 3), (8, 1))
    tolerance: ClassVar[dict[str, float]] = {"float32": 2e-5, "bfloat16": 3e-2, "float16": 4e-3}

    def make(self) -> AttentionBackend:
        """A fresh backend."""
        backend: AttentionBackend = self.spec.load()()
        return backend

    def page_sizes(self) -> list[int]:
        """Page sizes to try: of 1, 16 and 5, those declared; all that is declared where it is none of them."""
        declared = self.spec.page_sizes
        return [size for size in (1, 16, 5) if not declared or size in declared] or list(declared)

    def dtypes(self) -> list[str]:
        """Dtype names to try."""
        return list(self.spec.dtypes or ("float32",))

    def head_dim(self) -> int:
        """A head size the backend declares."""
        return self.spec.head_dims[0] if self.spec.head_dims else 32

    def test_ragged_batches(self) -> None:
        """Prompts, chunks, cached prefixes and decoding in one step; every head grouping and page size."""
        for heads, kv_heads in self.heads:
            for page_size in self.page_sizes():
                self._check(RAGGED, heads, kv_heads, page_size)

    def test_every_dtype(self) -> None:
        """The same in each declared dtype."""
        for dtype in self.dtypes():
            self._check(RAGGED, *self.heads[-1], self.page_sizes()[0], dtype=dtype)

    def test_decoding(self) -> None:
        """Steps of decoding only, rows alike and unlike in length."""
        for page_size in self.page_sizes():
            self._check(DECODING, *self.heads[0], page_size)

    def test_consecutive_pages(self) -> None:
        """Pages that happen to lie in order, as they do for a lone request."""
        for page_size in self.page_sizes():
            self._check(DECODING, *self.heads[0], page_size, consecutive=True)
            self._check(RAGGED, *self.heads[0], page_size, consecutive=True)

    def test_long_prompt_in_chunks(self) -> None:
        """A prompt of many blocks, then chunks on its prefix."""
        steps = [[(0, 600)], [(0, 300), (1, 1)], [(0, 1), (1, 270)], [(1, 1), (0, 1)]]
        self._check(steps, *self.heads[0], self.page_sizes()[0])

    def test_sliding_window(self) -> None:
        """Windows shorter and longer than rows and chunks."""
        self._need(self.spec.sliding_window, "sliding window")
        for window in (1, 4, 17, 400):
            for steps in (RAGGED, DECODING):
                self._check(steps, *self.heads[-1], self.page_sizes()[0], window=window)
        self._check(DECODING, *self.heads[-1], self.page_sizes()[-1], window=17)
        self._check([[(0, 600)], [(0, 300)], [(0, 1)]], *self.heads[-1], self.page_sizes()[-1], window=100)

    def test_soft_cap(self) -> None:
        """Scores capped by tanh."""
        self._need(self.spec.soft_cap, "soft cap")
        for steps in (RAGGED, DECODING):
            self._check(steps, *self.heads[-1], self.page_sizes()[-1], soft_cap=2.0)

    def test_sinks(self) -> None:
        """An extra logit a head."""
        self._need(self.spec.sinks, "sinks")
        for steps in (RAGGED, DECODING):
            self._check(steps, *self.heads[1], self.page_sizes()[0], sinks=True)
        if self.spec.sliding_window:
            self._check(RAGGED, *self.heads[1], self.page_sizes()[0], sinks=True, window=4)

    def test_a_poisoned_row_harms_no_other(self) -> None:
        """Keys and values that are NaN spoil their own row alone."""
        run = _Run(self, 4, 2 if self.heads[0] == (4, 4) else 4, self.page_sizes()[0], "float32", False)
        rows = [(0, 9), (1, 20), (2, 5)]
        run.step(rows)
        for steps in ([(0, 1), (1, 1), (2, 1)], [(0, 3), (1, 1), (2, 4)]):
            got, want = run.step(steps, poison=1)
            for (row, _), ours, right in zip(steps, got, want, strict=True):
                if row == 1:
                    assert torch.isnan(ours).all()
                else:
                    assert _error(ours, right) <= self.tolerance["float32"]

    def _need(self, declared: bool, what: str) -> None:
        if not declared:
            pytest.skip(f"{self.spec.name} declares no {what}")

    def _check(
        self,
        steps: list[list[tuple[int, int]]],
        heads: int,
        kv_heads: int,
        page_size: int,
        *,
        dtype: str | None = None,
        consecutive: bool = False,
        **options: Any,
    ) -> None:
        """Run the steps on one pool and compare each row of each step."""
        dtype = dtype or self.dtypes()[0]
        run = _Run(self, heads, kv_heads, page_size, dtype, consecutive, **options)
        for number, rows in enumerate(steps):
            for row, got, want in zip(rows, *run.step(rows), strict=True):
                error = _error(got, want)
                assert error <= self.tolerance[dtype], (
                    f"step {number}, row {row[0]} (+{row[1]} tokens): error {error:.2e}, {heads}/{kv_heads} heads, "
                    f"page size {page_size}, {dtype}, {options or 'plain'}"
                )


class _Run:
    """One pool, one backend and the whole history of keys and values by row."""

    def __init__(
        self,
        suite: AttentionConformance,
        heads: int,
        kv_heads: int,
        page_size: int,
        dtype: str,
        consecutive: bool,
        *,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: bool = False,
    ) -> None:
        self.backend = suite.make()
        self.device, self.dtype = suite.device, getattr(torch, dtype)
        self.shape = (heads, kv_heads, suite.head_dim())
        self.random = torch.Generator().manual_seed(heads * 100 + page_size)
        group = KVGroup(layers=(0, 1), kv_heads=kv_heads, head_dim=suite.head_dim())
        self.pool = PagedPool(
            [group],
            pages=2400 // page_size + 8,
            page_size=page_size,
            dtype=self.dtype,
            device=suite.device,
            consecutive=consecutive,
        )
        self.rows: dict[int, PagedRow] = {}
        self.history: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.window, self.soft_cap = window, soft_cap
        self.sinks = self._normal(heads) if sinks else None
        self.scale = suite.head_dim() ** -0.5

    def step(
        self, work: list[tuple[int, int]], poison: int | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """One step on layer 1 -> by row, what the backend gave and what is right, [new tokens, heads, dim]."""
        heads, kv_heads, dim = self.shape
        qs, keys, values = [], [], []
        for row, count in work:
            self.rows.setdefault(row, self.pool.row(0))
            q, k, v = (self._normal(count, n, dim) for n in (heads, kv_heads, kv_heads))
            if row == poison:
                k = torch.full_like(k, float("nan"))
            qs.append(q)
            keys.append(k)
            values.append(v)
            self.history.setdefault(row, []).append((k, v))
        meta = self.backend.plan(self.pool.step([(self.rows[row], count) for row, count in work]))
        self.backend.write_kv(1, torch.cat(keys), torch.cat(values), self.pool, meta)
        out = self.backend.attend(
            1,
            torch.cat(qs),
            self.pool,
            meta,
            scale=self.scale,
            window=self.window,
            soft_cap=self.soft_cap,
            sinks=self.sinks,
        )
        assert out.dtype == self.dtype
        assert out.shape == (sum(count for _, count in work), heads, dim)
        got = list(out.split([count for _, count in work]))
        return got, [self._right(row, q) for (row, _), q in zip(work, qs, strict=True)]

    def _right(self, row: int, q: torch.Tensor) -> torch.Tensor:
        """The definition, in float64."""
        k, v = (torch.cat(part).double() for part in zip(*self.history[row], strict=True))  # [length, kv_heads, dim]
        groups = self.shape[0] // self.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", q.double(), k) * self.scale
        if self.soft_cap:
            scores = self.soft_cap * torch.tanh(scores / self.soft_cap)
        length = k.shape[0]
        position = torch.arange(length - q.shape[0], length, device=q.device)[:, None]
        key = torch.arange(length, device=q.device)
        hidden = key > position
        if self.window:
            hidden |= key <= position - self.window
        scores = scores.masked_fill(hidden, float("-inf"))
        if self.sinks is not None:
            extra = self.sinks.double()[:, None, None].expand(-1, q.shape[0], 1)
            weights = torch.softmax(torch.cat((scores, extra), -1), -1)[..., :-1]
        else:
            weights = torch.softmax(scores, -1)
        return torch.einsum("hqk,khd->qhd", weights, v)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.random).to(self.device, self.dtype)


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest absolute difference; infinite where `got` is not finite."""
    difference = (got.double() - want).abs().max()
    return float(difference) if bool(torch.isfinite(got).all()) else float("inf")
