"""Every check of the quantization kit is seen to fail, each on a method that breaks just its promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sglcore.contracts.quant import QuantSpec
from sglcore.testing import QuantConformance
from testing import broken_quants as broken
from testing.faults import checks, seen

CONFIG = {"quant_method": "x", "group_size": broken.GROUP}
SPEC = QuantSpec(
    name="x", factory="testing.broken_quants:Sound", methods=("x",), dtypes=("float32", "bfloat16"), online=True
)


class Groups(QuantConformance):
    spec = SPEC
    config = CONFIG

    def quantize(self, weight: torch.Tensor) -> Any:
        return broken.quantize(weight)


class TestSound(Groups):
    pass


def suite(kind: Any) -> type[QuantConformance]:
    spec = type("Spec", (), {"__getattr__": lambda _, name: getattr(SPEC, name), "load": lambda _: kind})()
    return type("Suite", (Groups,), {"spec": spec})


FAULTS = [
    (
        broken.OffByALittle,
        "test_the_kernel_multiplies_by_the_weight",
        "1 rows in float32: error .* of the largest result",
    ),
    (broken.MixesScales, "test_the_kernel_multiplies_by_the_weight", "1 rows in float32: error"),
    (broken.ForgetsTheBias, "test_the_kernel_multiplies_by_the_weight", "error"),
    (broken.SwapsParts, "test_the_kernel_multiplies_by_the_weight", "error"),
    (broken.Wide, "test_the_kernel_multiplies_by_the_weight", "results are torch.float64"),
    (broken.ChangesItsInput, "test_the_kernel_multiplies_by_the_weight", "the kernel changes its input"),
    (broken.CountsWrong, "test_the_kernel_multiplies_by_the_weight", "out_features is wrong"),
    (broken.declares(suffix="weight"), "test_tensors_are_well_declared", "suffixes are"),
    (broken.declares(shape=(0, 4)), "test_tensors_are_well_declared", r"has shape \(0, 4\)"),
    (broken.declares(dtype="int9"), "test_tensors_are_well_declared", "torch has no dtype 'int9'"),
    (broken.declares(in_dim=2), "test_tensors_are_well_declared", "has no dimension 2 for its inputs"),
    (broken.declares(in_per=16), "test_tensors_are_well_declared", "4 elements of 16 inputs each for 128 inputs"),
    (broken.LeavesPlain, "test_tensors_are_well_declared", "is left plain by the suite's config"),
    (broken.ChangesItsMind, "test_tensors_are_well_declared", "asked twice it names other tensors"),
    (broken.ReadsAWholeRowOfScales, "test_shares_of_ranks_make_the_whole", "cut by inputs: error"),
    (broken.DividesByItsScale, "test_dummy_weights_give_finite_results", "no finite results: declare `span`"),
    (
        broken.TrustsItsConfig,
        "test_nonsense_in_the_config_is_refused",
        "group_size = None raises TypeError, not ConfigError",
    ),
    (broken.ForgetsToScale, "test_a_plain_checkpoint_is_quantized", "error .* of a plain weight, allowed 0.1"),
]


@pytest.mark.parametrize("kind, check, message", FAULTS)
def test_the_fault_is_seen(kind: Any, check: str, message: str):
    seen(suite(kind), check, message)


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert {check for _, check, _ in FAULTS} == set(checks(QuantConformance)) - general
