"""Every check of the ops kit is seen to fail, each on a table that breaks just its promise."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.contracts.ops import OpsSpec
from sglcore.testing import OpsConformance
from testing.faults import checks, seen

EVERY = ("linear", "embedding", "rms_norm", "add_rms_norm", "silu_mul", "argmax", "rope")


def suite(table: str, *provides: str, dtypes: tuple[str, ...] = ("float32",), **declared: Any) -> type[OpsConformance]:
    spec = OpsSpec(name="x", factory=f"testing.broken_ops:{table}", provides=provides, dtypes=dtypes, **declared)
    return type("Suite", (OpsConformance,), {"spec": spec})


class TestSound(OpsConformance):
    spec = OpsSpec(name="x", factory="testing.broken_ops:Sound", provides=EVERY)


FAULTS = [
    (
        "WrongInOneRow",
        "rms_norm",
        "equals_the_reference",
        "1 of 130 rows are wrong, the worst is row 128 with an error",
    ),
    ("ForgetsTheBias", "linear", "equals_the_reference", "linear in float32 .*bias.* rows are wrong"),
    ("LastOfEquals", "argmax", "equals_the_reference", "argmax .*rows are wrong, the worst is row 0"),
    ("WideResult", "silu_mul", "equals_the_reference", "torch.float64, not torch.float32"),
    ("TurnsAllOfTheHead", "rope", "equals_the_reference", r"rope .*cos \[1, 8\].*wrong"),
]


@pytest.mark.parametrize("table, op, check, message", FAULTS)
def test_a_wrong_op_is_seen(table: str, op: str, check: str, message: str):
    seen(suite(table, op), f"test_every_op_{check}", message)
    others = tuple(name for name in EVERY if name not in (op, "add_rms_norm"))
    suite(table, *others)().test_every_op_equals_the_reference()


def test_other_faults_are_seen():
    seen(suite("Sound", "gelu_mul"), "test_every_op_is_one_of_the_contract", "'gelu_mul' is no op of the contract")
    seen(suite("stumbles", "rope"), "test_every_op_is_one_of_the_contract", "the table has no such method")
    seen(suite("ChangesItsInput", "silu_mul"), "test_inputs_are_left_alone", "changes its input 'gate_up'")
    seen(suite("KeepsItsInput", "embedding"), "test_no_input_is_kept", "keeps a reference to its input 'table'")
    seen(suite("SpreadsNaN", "rms_norm"), "test_a_row_that_is_not_finite_harms_no_other", "NaN in row 1 reaches row 0")
    seen(suite("LiesAboutInvariance", "silu_mul"), "test_batch_invariance", "row 0 differs bitwise when it is alone")
    seen(suite("Sound"), "test_it_provides_something", "x provides no op")


def test_invariance_is_asked_where_it_is_declared_only():
    suite("KeepsItsWordOnInvariance", "silu_mul")().test_batch_invariance()
    with pytest.raises(pytest.skip.Exception, match="do not declare batch_invariant"):
        suite("Sound", "silu_mul")().test_batch_invariance()
    seen(suite("LiesAboutInvariance", "silu_mul", batch_invariant=True), "test_batch_invariance", "bitwise")


def test_half_types_have_room_for_rounding_only():
    suite("Sound", *EVERY, dtypes=("bfloat16", "float16"))().test_every_op_equals_the_reference()
    seen(suite("WrongInOneRow", "rms_norm", dtypes=("bfloat16",)), "test_every_op_equals_the_reference", "row 128")


def test_every_check_is_seen_to_fail():
    shown = {"test_every_op_equals_the_reference", "test_every_op_is_one_of_the_contract", "test_inputs_are_left_alone"}
    shown |= {"test_no_input_is_kept", "test_a_row_that_is_not_finite_harms_no_other", "test_batch_invariance"}
    shown |= {"test_it_provides_something"}
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert shown == set(checks(OpsConformance)) - general
