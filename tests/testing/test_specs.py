"""What every Spec must be; the checks behind all suites. Malformed Specs are in test_init.py."""

from __future__ import annotations

import pytest

from sglcore.contracts.commands import CommandSpec
from sglcore.contracts.families import FAMILIES
from sglcore.contracts.policies import PolicySpec
from sglcore.testing import SpecConformance, suite
from sglcore.testing.suites import HOMES
from testing import faults
from testing.faults import seen

SPEC = PolicySpec(name="x", factory="collections:Counter")


def broken(**fields: object) -> type[SpecConformance]:
    given = {"name": "x", "factory": "collections:Counter", **fields}
    return type("Suite", (SpecConformance,), {"spec": PolicySpec(**given), "family": "policies"})  # type: ignore[arg-type]


def silent() -> str:
    """A probe that says nothing."""
    return " "


def test_faults_are_seen():
    seen(broken(name=""), "test_the_spec_is_well_formed", "has no name")
    seen(broken(probe="somewhere"), "test_the_spec_is_well_formed", "probe is 'somewhere'")
    seen(type("Suite", (broken(),), {"family": "ops"}), "test_the_spec_is_well_formed", "not a OpsSpec")
    seen(broken(factory="collections:No"), "test_the_factory_loads", "cannot be loaded")
    seen(broken(probe="testing.test_specs:silent"), "test_the_probe_answers", "the probe returned ' '")


def test_a_suite_for_every_family():
    for family in FAMILIES.values():
        spec = faults if family.name == "hooks" else SPEC
        made = suite(family.name, spec)
        assert made is not None and made.__name__.startswith("Test"), family.name
        assert any(name.startswith("test_") for name in dir(made))
        if family.name in HOMES:
            assert made.__mro__[1].__name__ == HOMES[family.name][1]
            assert made.spec is spec
    assert suite("polices", SPEC) is None


def test_a_suite_runs_from_the_spec_alone():
    command = CommandSpec(name="x", factory="collections:Counter")
    made = suite("commands", command)
    assert made is not None
    made().test_the_spec_is_well_formed()
    wrong = suite("commands", SPEC)
    assert wrong is not None
    with pytest.raises(AssertionError, match="not a CommandSpec"):
        wrong().test_the_spec_is_well_formed()
