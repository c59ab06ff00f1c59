"""One pool of latents, one backend and what is right: the driver behind AttentionConformance's cases of MLA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from sglcore.contracts.attention import AttentionBackend, LatentBackend
from sglcore.contracts.models import KVGroup
from sglcore.layers.reference import narrowed
from sglcore.testing.attention_run import LAYER, SLOTS, Work
from sglcore.testing.harness import PagedPool, PagedRow


@dataclass(frozen=True, kw_only=True)
class LatentCase:
    """A setting to run steps in. dtype: of queries and latents; kv_dtype: of the pool, "" for the same."""

    heads: int
    rank: int
    rope_dim: int
    page_size: int
    dtype: str
    device: str
    kv_dtype: str = ""

    def __str__(self) -> str:
        cache = f", {self.kv_dtype} cache" if self.kv_dtype else ""
        sizes = f"{self.heads} heads over latents of {self.rank} + {self.rope_dim}"
        return f"{sizes}, page size {self.page_size}, {self.dtype}{cache}"


class LatentRun:
    """A backend at work on one pool, and the whole history of latents by row.

    A row's tensors depend on the row and its step alone, so that two runs may be compared.
    """

    def __init__(self, backend: AttentionBackend, case: LatentCase) -> None:
        self.backend, self.case = backend, case
        self.latent = cast("LatentBackend", backend)
        self.dtype = getattr(torch, case.dtype)
        self.kv_dtype = getattr(torch, case.kv_dtype or case.dtype)
        self.width = case.rank + case.rope_dim
        group = KVGroup(kind="latent", layers=(0, LAYER), kv_heads=1, head_dim=self.width)
        pages = SLOTS // case.page_size + 8
        self.pool = PagedPool([group], pages=pages, page_size=case.page_size, dtype=self.kv_dtype, device=case.device)
        self.rows: dict[int, PagedRow] = {}
        self.history: dict[int, list[torch.Tensor]] = {}
        self.random: dict[int, torch.Generator] = {}
        self.scale = self.width**-0.5

    def step(self, work: Work, *, spoil: float | None = None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """One step -> by row, what the backend gave and what is right, [new tokens, heads, rank].

        spoil: what stands, while it attends, wherever none of its rows does.
        """
        case = self.case
        new = torch.cat([self._new(row, count) for row, count in work])  # [tokens, heads + 1, width]
        q, latents = new[:, :-1], new[:, -1]  # slices, as projections give them
        counts = [count for _, count in work]
        rows = [self.rows[row] for row, _ in work]
        meta = self.backend.plan(self.pool.step(list(zip(rows, counts, strict=True))))
        before = new.clone()
        self.latent.write_latent(0, latents[:, : case.rank] + 1, latents[:, case.rank :] + 1, self.pool, meta)
        self.latent.write_latent(LAYER, latents[:, : case.rank], latents[:, case.rank :], self.pool, meta)
        if spoil is None:
            out = self._attend(q, meta)
        else:
            with self.pool.spoiled(rows, spoil):
                out = self._attend(q, meta)
        assert torch.equal(new, before), f"it changes the queries or latents: {case}"
        got = list(out.split(counts))
        return got, [self._right(row, own) for (row, _), own in zip(work, q.split(counts), strict=True)]

    def _attend(self, q: torch.Tensor, meta: Any) -> torch.Tensor:
        rank = self.case.rank
        out = self.latent.attend_latent(LAYER, q[..., :rank], q[..., rank:], self.pool, meta, scale=self.scale)
        assert out.dtype == self.dtype, f"attend_latent returned {out.dtype} for queries in {self.dtype}: {self.case}"
        wanted = (*q.shape[:2], rank)
        assert out.shape == wanted, f"attend_latent returned shape {tuple(out.shape)}, not {wanted}: {self.case}"
        return out.clone()  # the backend may use its memory again

    def _new(self, row: int, count: int) -> torch.Tensor:
        """The row's next tokens, [count, heads + 1, width]; the last of them goes into the history as stored."""
        self.rows.setdefault(row, self.pool.row(0))
        random = self.random.setdefault(row, torch.Generator().manual_seed(1000 + row))
        new = torch.randn(count, self.case.heads + 1, self.width, generator=random).to(self.case.device, self.dtype)
        self.history.setdefault(row, []).append(narrowed(new[:, -1], self.kv_dtype).double())
        return new

    def _right(self, row: int, q: torch.Tensor) -> torch.Tensor:
        """The definition, in float64."""
        latents = torch.cat(self.history[row])  # [length, width]
        scores = torch.einsum("qhd,kd->hqk", q.double(), latents) * self.scale
        length = latents.shape[0]
        position = torch.arange(length - q.shape[0], length, device=q.device)[:, None]
        hidden = torch.arange(length, device=q.device) > position
        weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)
        return torch.einsum("hqk,kd->qhd", weights, latents[:, : self.case.rank])
