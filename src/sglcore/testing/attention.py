"""AttentionConformance: a backend against attention computed the long way in float64."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from sglcore.contracts.attention import AttentionBackend, AttentionSpec
from sglcore.testing.attention_run import AttentionRun, Case, error_of
from sglcore.testing.devices import device_of, need_device, need_probe
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
    tolerance: largest error allowed, by dtype name.
    """

    spec: ClassVar[AttentionSpec]
    family = "attention"
    device: ClassVar[str] = ""
    heads: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (9, 3), (8, 1))
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
        """The contract has no call for multi-head latent attention yet, so a backend that declares it brings its test.

        Override this method in the plugin's own suite to do so.
        """
        self._need(self.spec.mla, "MLA")
        raise AssertionError(
            f"{self.spec.name} declares mla, but version 1 of the attention contract has no call for latent "
            "attention: a Spec that declares it overrides test_mla with a test of its own"
        )

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
        case = self._case(page_size=page_size)
        plain, *others = (AttentionRun(self.make(), case) for _ in range(3))
        for number, rows in enumerate(steps):
            want = plain.step(rows)[0]
            for run, value in zip(others, (float("nan"), 3e4), strict=True):
                for (row, _), got, right in zip(rows, run.step(rows, spoil=value)[0], want, strict=True):
                    assert torch.equal(got, right), (
                        f"step {number}, row {row}: {value} in pages that no row of the step owns changes the result; "
                        f"it reads memory that is not its own: {case}"
                    )

    def _check(self, steps: Steps, **given: Any) -> None:
        """Run the steps on one pool and compare each row of each step."""
        case = self._case(**given)
        run = AttentionRun(self.make(), case)
        bound = max(self.tolerance[case.dtype], self.kv_tolerance if case.kv_dtype else 0.0)
        for number, rows in enumerate(self._allowed(steps)):
            for row, got, want in zip(rows, *run.step(rows), strict=True):
                error = error_of(got, want)
                shown = f"error {error:.2e}" if error < float("inf") else "not finite, as unwritten memory is"
                assert error <= bound, f"step {number}, row {row[0]} (+{row[1]} tokens): {shown}, {case}"
