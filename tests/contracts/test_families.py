"""Families: where their Specs are, and that the door to all contract names knows every one."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import pytest

from sglcore import contracts
from sglcore.cli.contracts_source import SOURCE, read
from sglcore.contracts.families import FAMILIES, Family
from sglcore.contracts.spec import Spec, load_address

MODULES = sorted(p.stem for p in (SOURCE / "contracts").glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if f.spec], ids=lambda f: f.name)
def test_the_spec_of_a_family_is_a_frozen_dataclass(family: Family) -> None:
    spec = load_address(family.spec)
    assert issubclass(spec, Spec) and spec is not Spec
    assert dataclasses.is_dataclass(spec) and spec.__dataclass_params__.frozen
    required = {f.name: f for f in dataclasses.fields(spec) if f.default is f.default_factory is dataclasses.MISSING}
    values = {name: ("x",) if "tuple" in str(f.type) else 1 if f.type == "int" else "x" for name, f in required.items()}
    made = spec(**values)
    assert made == spec(**values)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"


def test_no_two_families_share_a_spec() -> None:
    specs = [f.spec for f in FAMILIES.values() if f.spec]
    assert len(set(specs)) == len(specs)
    assert [f.name for f in FAMILIES.values() if not f.spec] == ["hooks"]


def test_groups_go_from_the_newest_version_to_the_oldest() -> None:
    assert Family("f", 3, 2, "").groups == (("sglcore.f.v3", 3), ("sglcore.f.v2", 2))
    assert all(f.version - f.oldest in (0, 1) for f in FAMILIES.values())


@pytest.mark.parametrize("module", MODULES)
def test_every_public_class_is_found_through_the_package(module: str) -> None:
    names = {c.name for c in read(module).classes} | set(read(module).unions)
    home = importlib.import_module(f"sglcore.contracts.{module}")
    assert {n for n in names if contracts._HOME.get(n) != module} == set()
    assert all(getattr(contracts, name) is getattr(home, name) for name in names)


def test_what_type_checkers_see_is_what_is_there() -> None:
    source = (SOURCE / "contracts" / "__init__.py").read_text()
    block = source.partition("if TYPE_CHECKING:")[2].partition("\n\n")[0]
    seen = dict.fromkeys(word.strip(",") for word in block.split() if word[0].isupper())
    assert set(seen) == set(contracts._HOME) == set(contracts.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        contracts.Nothing  # noqa: B018


def test_no_contract_imports_torch() -> None:
    code = "import importlib, sys; [importlib.import_module('sglcore.contracts.' + m) for m in sys.argv[1:]]; "
    code += "sys.exit(bool({'torch', 'numpy', 'transformers', 'starlette'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code, *MODULES], check=False).returncode == 0
