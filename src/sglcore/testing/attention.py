"""AttentionConformance: a backend against attention computed the long way in float64."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from sglcore.contracts.attention import AttentionBackend, AttentionSpec
from sglcore.testing.attention_run import AttentionRun, Case, error_of
from sglcore.testing.devices import device_of, need_device, need_probe
from sglcore.testing.latent_run import LatentCase, LatentRun
from sglcore.testing.specs import SpecConformance

Steps = list[list[tuple[int, int]]]  # rows of a few steps: (row, new tokens)

# Fresh prompts, chunks, cached prefixes and decoding, mixed.
RAGGED: Steps = [
    [(0, 7), (1, 1), (2, 33)],
    [(0, 1), (2, 5), (3, 20), (1, 1)],
    [(2, 1), (0, 1), (1, 16), (3, 1)],
    [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2)],
]
# Decoding alone, rows of like and of very unlike length; the numbers make portions, paddings and long rows appear.
DECODING: Steps = [
    [(0, 300), (1, 290), (2, 12), (3, 1), (4, 64)],
    [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)],
    [(4, 1), (2, 1), (0, 1), (1, 1)],
    [(1, 1)],
]
ANY_DTYPE = ("float32", "bfloat16", "float16")
ANY_HEAD_DIM = (32, 64, 80, 128)


class AttentionConformance(SpecConformance):
    """Subclass with `spec`; `device` and `heads` where the defaults do not fit.

    device: "" for the first of the declared platforms that is here. heads: (query heads, key/value heads) to try.
    latents: (query heads, rank, rotary part) to try where the Spec declares `mla`, of the sizes that it declares.
    tolerance: largest error allowed, by dtype name.
    """

    spec: ClassVar[AttentionSpec]
    family = "attention"
    device: ClassVar[str] = ""
    heads: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (9, 3), (8, 1))
    latents: ClassVar[tuple[tuple[int, int, int], ...]] = ((5, 32, 16), (3, 80, 32), (16, 512, 64))
    tolerance: ClassVar[dict[str, float]] = {"float32": 2e-5, "bfloat16": 3e-2, "float16": 4e-3}
    kv_tolerance: ClassVar[float] = 6e-2  # with a pool in another dtype than the queries

    @pytest.fixture(autouse=True)
    def _able(self) -> None:
        need_probe(self.spec)
        need_device(self.where())

    def make(self) -> AttentionBackend:
        """A fresh backend."""
        backend: AttentionBackend = self.spec.load()()
        return backend

    def where(self) -> str:
        """The device to test on."""
        return self.device or device_of(self.spec.platforms)

    def page_sizes(self) -> list[int]:
        """Page sizes to try: all that are declared; 1, 16 and 5 where any will do."""
        return list(self.spec.page_sizes or (1, 16, 5))

    def dtypes(self) -> list[str]:
        """Dtype names to try: all that are declared, float32 and both half types where any will do."""
        return list(self.spec.dtypes or ANY_DTYPE)

    def head_dims(self) -> list[int]:
        """Head sizes to try: all that are declared, a few where any will do."""
        return list(self.spec.head_dims or ANY_HEAD_DIM)

    def test_ragged_batches(self) -> None:
        """Prompts, chunks, cached prefixes and decoding in one step; every head grouping and page size."""
        for heads in self.heads:
            for page_size in self.page_sizes():
                self._check(RAGGED, heads=heads, page_size=page_size)

    def test_every_dtype(self) -> None:
        """The same in each declared dtype, on pages of every size."""
        for dtype in self.dtypes():
            for page_size in self.page_sizes():
                self._check(RAGGED, heads=self.heads[-1], dtype=dtype, page_size=page_size)

    def test_every_cache_dtype(self) -> None:
        """The same with the pool in each declared dtype of its own."""
        if not self.spec.kv_dtypes:
            pytest.skip(f"{self.spec.name} declares no dtype for the cache beside its compute type")
        for kv_dtype in self.spec.kv_dtypes:
            for steps in (RAGGED, DECODING):
                self._check(steps, heads=self.heads[-1], kv_dtype=kv_dtype)

    def test_a_cache_of_eight_bits_saturates(self) -> None:
        """Keys and values past its range are kept as the largest there is: the result is finite, and near."""
        for kv_dtype in (name for name in self.spec.kv_dtypes if getattr(torch, name).itemsize == 1):
            for dtype in set(self.dtypes()) - {"float16"}:  # whose own range is little more
                case = self._case(dtype=dtype, kv_dtype=kv_dtype, loud=True, heads=self.heads[-1])
                run = AttentionRun(self.make(), case)
                for rows in self._allowed([[(0, 5), (1, 2)], [(0, 1), (1, 1)]]):
                    for got, want in zip(*run.step(rows), strict=True):
                        error, most = error_of(got, want), float(want.abs().max())
                        assert error <= self.kv_tolerance * most, f"error {error:.2e} beside {most:.0f}: {case}"

    def test_every_head_size(self) -> None:
        """The same with each declared head size."""
        for head_dim in self.head_dims():
            self._check(RAGGED, head_dim=head_dim)

    def test_decoding(self) -> None:
        """Steps of decoding only, rows alike and unlike in length."""
        for page_size in self.page_sizes():
            self._check(DECODING, page_size=page_size)

    def test_consecutive_pages(self) -> None:
        """Pages that happen to lie in order, as they do for a lone request."""
        for page_size in self.page_sizes():
            self._check(DECODING, page_size=page_size, consecutive=True)
            self._check(RAGGED, page_size=page_size, consecutive=True)

    def test_long_prompt_in_chunks(self) -> None:
        """A prompt of many blocks, then chunks on its prefix."""
        self._check([[(0, 600)], [(0, 300), (1, 1)], [(0, 1), (1, 270)], [(1, 1), (0, 1)]])

    def test_sliding_window(self) -> None:
        """Windows shorter and longer than rows and chunks."""
        self._need(self.spec.sliding_window, "sliding window")
        heads = self.heads[-1]
        for window in (1, 4, 17, 400):
            for steps in (RAGGED, DECODING):
                self._check(steps, heads=heads, window=window)
        self._check(DECODING, heads=heads, page_size=self.page_sizes()[-1], window=17)
        long: Steps = [[(0, 600)], [(0, 300)], [(0, 1)]]
        self._check(long, heads=heads, page_size=self.page_sizes()[-1], window=100)

    def test_soft_cap(self) -> None:
        """Scores capped by tanh."""
        self._need(self.spec.soft_cap, "soft cap")
        for steps in (RAGGED, DECODING):
            self._check(steps, heads=self.heads[-1], page_size=self.page_sizes()[-1], soft_cap=1.0)
        if self.spec.sliding_window:
            self._check(RAGGED, soft_cap=1.0, window=4)

    def test_sinks(self) -> None:
        """An extra logit a head."""
        self._need(self.spec.sinks, "sinks")
        for steps in (RAGGED, DECODING):
            self._check(steps, heads=self.heads[-1], sinks=True)
        if self.spec.sliding_window:
            self._check(RAGGED, heads=self.heads[-1], sinks=True, window=4)

    def test_mla(self) -> None:
        """Latent attention over prompts, chunks, cached prefixes and decoding; every page size and size of latent."""
        for latent in self._latents():
            for page_size in self.page_sizes():
                for steps in (RAGGED, DECODING):
                    self._check_latent(steps, latent, page_size=page_size)
        self._check_latent([[(0, 300)], [(0, 150), (1, 1)], [(0, 1), (1, 70)], [(1, 1), (0, 1)]], self._latents()[0])

    def test_mla_in_every_dtype(self) -> None:
        """The same in each declared dtype, and with latents kept in each declared dtype of the cache."""
        for latent in self._latents():
            for dtype in self.dtypes():
                self._check_latent(RAGGED, latent, dtype=dtype)
            for kv_dtype in self.spec.kv_dtypes:
                self._check_latent(RAGGED, latent, kv_dtype=kv_dtype)

    def test_mla_reads_no_foreign_latent(self) -> None:
        """Whatever stands in slots that no row of the step owns, NaN or large numbers, the result is the same."""
        case = self._latent_case(self._latents()[0], page_size=self.page_sizes()[-1])
        for steps in (RAGGED[:3], [[(0, 70), (1, 12)], [(1, 1), (0, 1)]]):
            plain, *others = (LatentRun(self.make(), case) for _ in range(3))
            self._compare_spoiled(self._allowed(steps), plain, others)

    def test_unused_pages_are_never_read(self) -> None:
        """Whatever stands in slots that no row of the step owns, NaN or large numbers, the result is the same."""
        for page_size in self.page_sizes():
            for steps in (RAGGED, DECODING):
                self._spoil(self._allowed(steps), page_size)

    def test_a_poisoned_row_harms_no_other(self) -> None:
        """Keys that are NaN spoil their own row alone."""
        dtype = self.dtypes()[0]
        run = AttentionRun(self.make(), self._case(dtype=dtype))
        run_of = self._allowed([[(0, 9), (1, 20), (2, 5)]])
        for rows in run_of:
            run.step(rows)
        for steps in self._allowed([[(0, 1), (1, 1), (2, 1)], [(0, 3), (1, 2), (2, 4)]]):
            got, want = run.step(steps, poison=1)
            for (row, _), ours, right in zip(steps, got, want, strict=True):
                if row == 1:
                    assert bool(torch.isnan(ours).all()), "NaN in a row's own keys is hidden: its result is finite"
                else:
                    error = error_of(ours, right)
                    assert error <= self.tolerance[dtype], f"NaN in row 1 reaches row {row}: error {error:.2e}"

    def test_batch_invariance(self) -> None:
        """Where it is declared: a row gives the very bits, alone and among others of all lengths."""
        self._need(self.spec.batch_invariant, "batch invariance")
        alone: Steps = [[(0, 33)], [(0, 5)], [(0, 1)], [(0, 1)]]
        among: Steps = [
            [(1, 64), (0, 33), (2, 7)],
            [(0, 5), (3, 290), (2, 3)],
            [(2, 1), (1, 1), (0, 1), (3, 1)],
            [(0, 1), (3, 1), (1, 1), (4, 40)] if self.spec.mixed else [(0, 1), (3, 1)],
        ]
        for dtype in self.dtypes():
            case = self._case(dtype=dtype, page_size=self.page_sizes()[-1])
            first, second = AttentionRun(self.make(), case), AttentionRun(self.make(), case)
            for number, (few, many) in enumerate(zip(alone, among, strict=True)):
                want = first.step(few)[0][0]
                got = second.step(many)[0][[row for row, _ in many].index(0)]
                assert torch.equal(got, want), (
                    f"step {number}: a row among {len(many) - 1} others differs from the row alone by "
                    f"{error_of(got, want.double()):.1e}, though batch_invariant is declared: {case}"
                )

    def _need(self, declared: bool, what: str) -> None:
        if not declared:
            pytest.skip(f"{self.spec.name} declares no {what}")

    def _case(self, *, heads: tuple[int, int] | None = None, **given: Any) -> Case:
        """A setting, the first of all that is declared where nothing else is given."""
        query, kv = heads or self.heads[0]
        plain = {"page_size": self.page_sizes()[0], "dtype": self.dtypes()[0], "head_dim": self.head_dims()[0]}
        return Case(heads=query, kv_heads=kv, device=self.where(), **{**plain, **given})

    def _allowed(self, steps: Steps) -> Steps:
        """Steps of the kinds that are declared: a mixed one is taken apart where mixing is not."""
        spec, found = self.spec, []
        for step in steps:
            prompts, singles = [w for w in step if w[1] > 1], [w for w in step if w[1] == 1]
            if spec.mixed and spec.prefill and spec.decode:
                found.append(step)
            else:
                found += [prompts] if prompts and spec.prefill else []
                found += [singles] if singles and spec.decode else []
        return found

    def _spoil(self, steps: Steps, page_size: int) -> None:
        plain, *others = (AttentionRun(self.make(), self._case(page_size=page_size)) for _ in range(3))
        self._compare_spoiled(steps, plain, others)

    def _compare_spoiled(self, steps: Steps, plain: Any, others: list[Any]) -> None:
        for number, rows in enumerate(steps):
            want = plain.step(rows)[0]
            for run, value in zip(others, (float("nan"), 3e4), strict=True):
                for (row, _), got, right in zip(rows, run.step(rows, spoil=value)[0], want, strict=True):
                    assert torch.equal(got, right), (
                        f"step {number}, row {row}: {value} in pages that no row of the step owns changes the result; "
                        f"it reads memory that is not its own: {plain.case}"
                    )

    def _latents(self) -> list[tuple[int, int, int]]:
        self._need(self.spec.mla, "MLA")
        served = self.spec.latent_dims
        found = [latent for latent in self.latents if not served or sum(latent[1:]) in served]
        assert found, f"none of {self.latents} is among the latents of {served} values that {self.spec.name} declares"
        return found

    def _latent_case(self, latent: tuple[int, int, int], **given: Any) -> LatentCase:
        heads, rank, rope_dim = latent
        plain = {"page_size": self.page_sizes()[0], "dtype": self.dtypes()[0], "device": self.where()}
        return LatentCase(heads=heads, rank=rank, rope_dim=rope_dim, **{**plain, **given})

    def _check_latent(self, steps: Steps, latent: tuple[int, int, int], **given: Any) -> None:
        self._compare(steps, LatentRun(self.make(), self._latent_case(latent, **given)))

    def _check(self, steps: Steps, **given: Any) -> None:
        """Run the steps on one pool and compare each row of each step."""
        self._compare(steps, AttentionRun(self.make(), self._case(**given)))

    def _compare(self, steps: Steps, run: Any) -> None:
        case = run.case
        bound = max(self.tolerance[case.dtype], self.kv_tolerance if case.kv_dtype else 0.0)
        for number, rows in enumerate(self._allowed(steps)):
            for row, got, want in zip(rows, *run.step(rows), strict=True):
                error = error_of(got, want)
                shown = f"error {error:.2e}" if error < float("inf") else "not finite, as unwritten memory is"
                assert error <= bound, f"step {number}, row {row[0]} (+{row[1]} tokens): {shown}, {case}"
