"""OpsConformance: each op that a plugin or platform provides, against the torch reference in float32."""

from __future__ import annotations

import gc
import weakref
from typing import Any, ClassVar

import pytest
import torch

from sglcore.contracts.ops import OpsSpec
from sglcore.testing.devices import need_device, need_probe
from sglcore.testing.op_cases import CASES, Call, calls_of
from sglcore.testing.specs import SpecConformance

TOLERANCE = {"float32": 3e-6, "bfloat16": 1.6e-2, "float16": 2e-3}  # share of the largest value


class OpChecks:
    """What holds for a table of ops: each right for every dtype and shape, and keeping its hands to itself.

    tolerance: largest error by dtype name, as a share of the largest value of the result.
    """

    tolerance: ClassVar[dict[str, float]] = TOLERANCE
    device: ClassVar[str] = "cpu"

    def table(self) -> Any:
        """The object whose methods are the ops."""
        raise NotImplementedError

    def provided(self) -> tuple[str, ...]:
        """Names of the ops to check."""
        raise NotImplementedError

    def op_dtypes(self) -> tuple[str, ...]:
        """Dtype names to try."""
        raise NotImplementedError

    def op_device(self) -> str:
        """Where the inputs lie."""
        return self.device

    def test_every_op_is_one_of_the_contract(self) -> None:
        """What is provided exists under a name that layers ask for."""
        table = self.table()
        for name in self.provided():
            assert name in CASES, f"{name!r} is no op of the contract; there are {', '.join(sorted(CASES))}"
            assert callable(getattr(table, name, None)), f"{name!r} is declared but the table has no such method"

    def test_every_op_equals_the_reference(self) -> None:
        """One row and many, ragged sizes, slices of wider tensors, every dtype; compared row by row."""
        table = self.table()
        for call in self._calls():
            self._compare(call, call.run(table))

    def test_inputs_are_left_alone(self) -> None:
        """None of the inputs changes, but the residual of add_rms_norm."""
        table = self.table()
        for call in self._calls():
            before = {name: tensor.clone() for name, tensor in call.kept().items()}
            call.run(table)
            for name, tensor in call.kept().items():
                assert same(tensor, before[name]), f"{call} changes its input {name!r}"

    def test_no_input_is_kept(self) -> None:
        """A tensor that an op was given can be freed once its result is gone."""
        table = self.table()
        for call in self._calls():
            result = call.run(table)
            held = {name: weakref.ref(tensor) for name, tensor in call.kept().items() if name not in call.owned}
            told = str(call)
            del result
            call.arguments.clear()
            if any(ref() is not None for ref in held.values()):
                gc.collect()  # only then: it takes longer than all the rest
            kept = [name for name, ref in held.items() if ref() is not None]
            assert not kept, f"{told} keeps a reference to its input {kept[0]!r}"

    def test_a_row_that_is_not_finite_harms_no_other(self) -> None:
        """NaN in one row stays there."""
        table = self.table()
        for call in self._calls():
            if call.rows < 3 or not call.poison(1):
                continue
            for got, want in zip(call.run(table), call.reference(), strict=True):
                for row in (r for r in range(call.rows) if r != 1):
                    assert bool(torch.isfinite(got[row]).all()) or not bool(torch.isfinite(want[row]).all()), (
                        f"{call}: NaN in row 1 reaches row {row}"
                    )

    def test_batch_invariance(self) -> None:
        """Where the table declares it: a row alone gives the very bits it gives among others."""
        table = self.table()
        if not getattr(table, "batch_invariant", False):
            pytest.skip("the ops do not declare batch_invariant")
        for call in self._calls():
            whole = [part.clone() for part in call.run(table)]
            for row in {0, call.rows // 2, call.rows - 1}:
                for got, want in zip(call.only(row).run(table), whole, strict=True):
                    assert same(got[0], want[row]), f"{call}: row {row} differs bitwise when it is alone"

    def _calls(self) -> list[Call]:
        names, device = [name for name in self.provided() if name in CASES], self.op_device()
        return [call for name in names for dtype in self.op_dtypes() for call in calls_of(name, dtype, device)]

    def _compare(self, call: Call, results: tuple[torch.Tensor, ...]) -> None:
        for got, want in zip(results, call.reference(), strict=True):
            assert got.shape == want.shape, f"{call}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
            assert got.dtype == call.result_dtype, f"{call}: {got.dtype}, not {call.result_dtype}"
            assert got.stride(-1) == 1 or got.shape[-1] == 1, f"{call}: not contiguous in its last dimension"
            bound = 0.0 if call.exact else self.tolerance[call.dtype] * max(1.0, float(want.abs().max()))
            errors = (got.double() - want.double()).abs().reshape(call.rows, -1).amax(-1)
            errors = errors.nan_to_num(float("inf"))
            worst = int(errors.argmax())
            wrong = int((errors > bound).sum())
            assert not wrong, (
                f"{call}: {wrong} of {call.rows} rows are wrong, the worst is row {worst} with an error of "
                f"{float(errors[worst]):.2e}, allowed {bound:.2e}"
            )


class OpsConformance(OpChecks, SpecConformance):
    """Subclass with `spec`; `device` where it is not the CPU."""

    spec: ClassVar[OpsSpec]
    family = "ops"

    @pytest.fixture(autouse=True)
    def _able(self) -> None:
        need_probe(self.spec)
        need_device(self.device)

    def table(self) -> Any:
        """A fresh table of kernels."""
        return self.spec.load()()

    def provided(self) -> tuple[str, ...]:
        """What the spec declares."""
        return self.spec.provides

    def op_dtypes(self) -> tuple[str, ...]:
        """What the spec declares; all three where it says any."""
        return self.spec.dtypes or tuple(TOLERANCE)

    def test_it_provides_something(self) -> None:
        """A Spec that names no op does nothing."""
        assert self.spec.provides, f"{self.spec.name} provides no op"


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, NaN where the other has NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point():
        return bool(torch.equal(a, b))
    return bool(torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0)))
