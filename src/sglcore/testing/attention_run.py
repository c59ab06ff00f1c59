"""One pool, one backend and what is right: the driver behind AttentionConformance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sglcore.contracts.attention import AttentionBackend
from sglcore.contracts.models import KVGroup
from sglcore.layers.reference import narrowed
from sglcore.testing.harness import PagedPool, PagedRow

LAYER = 1  # the one that is looked at; layer 0 of the same group is written too, with other values
SLOTS = 2400  # tokens that a pool holds at least
Work = Sequence[tuple[int, int]]  # (row, new tokens)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A setting to run steps in. dtype: of queries, keys and values; kv_dtype: of the pool, "" for the same."""

    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    dtype: str
    device: str
    kv_dtype: str = ""
    consecutive: bool = False
    window: int = 0
    soft_cap: float = 0.0
    sinks: bool = False
    loud: bool = False  # some keys and values are past the range of eight bits

    def __str__(self) -> str:
        options = [f"window {self.window}"] if self.window else []
        options += [f"soft cap {self.soft_cap}"] if self.soft_cap else []
        options += ["sinks"] if self.sinks else []
        options += [f"{self.kv_dtype} cache"] if self.kv_dtype else []
        told = f"{self.heads}/{self.kv_heads} heads of {self.head_dim}, page size {self.page_size}, {self.dtype}"
        return ", ".join([told, *options])


class AttentionRun:
    """A backend at work on one pool, and the whole history of keys and values by row.

    A row's tensors depend on the row and its step alone, so that two runs may be compared.
    """

    def __init__(self, backend: AttentionBackend, case: Case) -> None:
        self.backend, self.case = backend, case
        self.dtype = getattr(torch, case.dtype)
        self.kv_dtype = getattr(torch, case.kv_dtype or case.dtype)
        group = KVGroup(layers=(0, LAYER), kv_heads=case.kv_heads, head_dim=case.head_dim)
        self.pool = PagedPool(
            [group],
            pages=SLOTS // case.page_size + 8,
            page_size=case.page_size,
            dtype=self.kv_dtype,
            device=case.device,
            consecutive=case.consecutive,
        )
        self.rows: dict[int, PagedRow] = {}
        self.history: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.random: dict[int, torch.Generator] = {}
        self.sinks = self._normal(-1, case.heads) if case.sinks else None
        self.scale = case.head_dim**-0.5

    def step(
        self, work: Work, *, poison: int | None = None, spoil: float | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """One step -> by row, what the backend gave and what is right, [new tokens, heads, dim].

        poison: a row whose new keys are NaN. spoil: what stands, while it attends, wherever none of its rows does.
        """
        case = self.case
        qkv = torch.cat([self._new(row, count, row == poison) for row, count in work])
        q, k, v = qkv.split([case.heads, case.kv_heads, case.kv_heads], 1)  # slices, as a fused projection gives them
        counts = [count for _, count in work]
        rows = [self.rows[row] for row, _ in work]
        meta = self.backend.plan(self.pool.step(list(zip(rows, counts, strict=True))))
        before = qkv.clone()
        self.backend.write_kv(0, v.contiguous(), k.contiguous(), self.pool, meta)
        self.backend.write_kv(LAYER, k, v, self.pool, meta)
        if spoil is None:
            out = self._attend(q, meta)
        else:
            with self.pool.spoiled(rows, spoil):
                out = self._attend(q, meta)
        assert torch.equal(qkv.nan_to_num(), before.nan_to_num()), f"it changes the queries, keys or values: {case}"
        got = list(out.split(counts))
        return got, [self._right(row, own) for (row, _), own in zip(work, q.split(counts), strict=True)]

    def _attend(self, q: torch.Tensor, meta: Any) -> torch.Tensor:
        case = self.case
        out = self.backend.attend(
            LAYER,
            q,
            self.pool,
            meta,
            scale=self.scale,
            window=case.window,
            soft_cap=case.soft_cap,
            sinks=self.sinks,
        )
        assert out.dtype == self.dtype, f"attend returned {out.dtype} for queries in {self.dtype}: {case}"
        assert out.shape == q.shape, f"attend returned shape {tuple(out.shape)} for {tuple(q.shape)}: {case}"
        return out.clone()  # the backend may use its memory again

    def _new(self, row: int, count: int, poisoned: bool) -> torch.Tensor:
        """The row's next tokens, [count, heads of q, k and v, dim]; keys and values go into the history as stored."""
        case = self.case
        self.rows.setdefault(row, self.pool.row(0))
        qkv = self._normal(row, count, case.heads + 2 * case.kv_heads, case.head_dim)
        k, v = qkv[:, case.heads : -case.kv_heads], qkv[:, -case.kv_heads :]
        if poisoned:
            k.fill_(float("nan"))
        if case.loud:
            k[:, :, 0] *= 60000
            v[:, :, ::3] *= 60000
        stored = (narrowed(k, self.kv_dtype).double(), narrowed(v, self.kv_dtype).double())
        self.history.setdefault(row, []).append(stored)
        return qkv

    def _right(self, row: int, q: torch.Tensor) -> torch.Tensor:
        """The definition, in float64."""
        case = self.case
        k, v = (torch.cat(part) for part in zip(*self.history[row], strict=True))  # [length, kv_heads, dim]
        groups = case.heads // case.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", q.double(), k) * self.scale
        if case.soft_cap:
            scores = case.soft_cap * torch.tanh(scores / case.soft_cap)
        length = k.shape[0]
        position = torch.arange(length - q.shape[0], length, device=q.device)[:, None]
        key = torch.arange(length, device=q.device)
        hidden = key > position
        if case.window:
            hidden |= key <= position - case.window
        scores = scores.masked_fill(hidden, float("-inf"))
        if self.sinks is not None:
            extra = self.sinks.double()[:, None, None].expand(-1, q.shape[0], 1)
            weights = torch.softmax(torch.cat((scores, extra), -1), -1)[..., :-1]
        else:
            weights = torch.softmax(scores, -1)
        return torch.einsum("hqk,khd->qhd", weights, v)

    def _normal(self, row: int, *shape: int) -> torch.Tensor:
        random = self.random.setdefault(row, torch.Generator().manual_seed(1000 + row))
        return torch.randn(*shape, generator=random).to(self.case.device, self.dtype)


def error_of(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest absolute difference; infinite where `got` is not finite."""
    difference = (got.double() - want).abs().max()
    return float(difference) if bool(torch.isfinite(got).all()) else float("inf")
