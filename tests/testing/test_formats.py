"""Every check of the weight format kit is seen to fail, each on a format that breaks just its promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sglcore.contracts.weights import WeightFormatSpec
from sglcore.testing import WeightFormatConformance
from testing.faults import checks, seen

TENSORS = {"a.weight": torch.randn(3, 5), "b.weight": torch.randn(4)}


def suite(name: str) -> type[WeightFormatConformance]:
    def write(self: object, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
        save_file(TENSORS, folder / "model.safetensors")
        (folder / "config.json").write_text('{"architectures": ["X"]}')
        return folder, TENSORS

    spec = WeightFormatSpec(name="x", factory=f"testing.broken_formats:{name}", suffixes=(".safetensors",))
    return type("Suite", (WeightFormatConformance,), {"spec": spec, "write": write})


class TestSound(suite("Format")):  # type: ignore[misc]
    pass


FAULTS = [
    ("LosesATensor", "test_a_checkpoint_comes_back", r"tensors are lost: \['a.weight'\]"),
    ("GivesTwice", "test_a_checkpoint_comes_back", "'a.weight' comes twice"),
    ("Invents", "test_a_checkpoint_comes_back", "'a.weight.more' was never written"),
    ("Rounds", "test_a_checkpoint_comes_back", "a.weight: error .*, allowed 0"),
    ("Turns", "test_a_checkpoint_comes_back", r"shape \(5, 3\), not \(3, 5\)"),
    ("NamesNoArchitecture", "test_config_and_text", "config names no architectures"),
    ("ImportsTorch", "test_opening_imports_no_torch", "imports torch"),
    ("TakesEverything", "test_what_is_not_its_own_is_left_alone", r"detects\('empty'\) is not False"),
    ("AcceptsAnything", "test_what_is_not_there_is_refused", "opened as if it were a model"),
    ("AcceptsAnything", "test_truncated_files_are_refused", r"model.safetensors cut to 0 of \d+ bytes is accepted"),
    ("NamesNoFile", "test_truncated_files_are_refused", "the error does not name model.safetensors"),
    ("TrustsTheHeader", "test_truncated_files_are_refused", "raises JSONDecodeError"),
    (
        "TrustsTheHeader",
        "test_damaged_files_raise_nothing_else",
        r"with byte \d+ changed raises \w+Error.*must be a Conf",
    ),
]


@pytest.mark.parametrize("name, check, message", FAULTS)
def test_the_fault_is_seen(name: str, check: str, message: str, tmp_path: Path):
    seen(suite(name), check, message, tmp_path)


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert {check for _, check, _ in FAULTS} == set(checks(WeightFormatConformance)) - general
