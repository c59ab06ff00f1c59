"""The committed contract pages are the generated ones, and the contracts say all that the pages need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sglcore.cli import contracts_page
from sglcore.cli.contracts_page import CHOSEN, KITS, pages
from sglcore.cli.contracts_source import SOURCE, Class, read
from sglcore.contracts.families import FAMILIES
from sglcore.server_config import ServerConfig

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "contracts"
MODULES = sorted(p.stem for p in (SOURCE / "contracts").glob("*.py") if p.stem not in ("__init__", "families"))
CLASSES = [(m, c) for m in MODULES for c in read(m).classes]


def named(value: object) -> str:
    return value.name if isinstance(value, Class) else str(value)


def test_the_committed_pages_are_the_generated_ones() -> None:
    committed = {p.name: p.read_text(encoding="utf-8") for p in COMMITTED.glob("*.md")}
    made = pages()
    wrong = sorted(name for name in committed | made if committed.get(name) != made.get(name))
    assert not wrong, f"{wrong}: run `python -m sglcore.cli.contracts_page docs/contracts`"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_has_a_page_that_says_what_it_is(family) -> None:
    text = pages()[f"{family.name}.md"]
    assert f"`sglcore.{family.name}.v{family.version}`" in text
    assert f"API version: {family.version}" in text
    assert ("**Provisional.**" in text) == family.provisional
    assert ("Faces the network" in text) == family.network
    if family.spec:
        assert re.findall(r"^## (\w+)$", text, re.M)[0] == family.spec.partition(":")[2]
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert f"contracts/{family.name}.md" in navigation


def test_every_class_stands_on_some_page() -> None:
    text = "\n".join(pages().values())
    assert [c.name for _, c in CLASSES if f"\n## {c.name}\n" not in text] == []


OWN = {"reference", "quantized", "rope_scaling"}  # what layers are made of, and tests compare with


@pytest.mark.parametrize("kit", KITS)
def test_every_part_of_a_kit_stands_on_its_page_with_what_it_takes(kit) -> None:
    found = {p.stem for p in (SOURCE / kit).glob("*.py") if p.stem != "__init__"}
    assert set(KITS[kit][1:]) == found - OWN
    text = (COMMITTED / f"{kit}.md").read_text(encoding="utf-8")
    for name in KITS[kit][1:]:
        module = read(f"../{kit}/{name}")
        for shown in (*module.classes, *module.functions):
            assert f"### {shown.name}\n" in text
            assert shown.text, f"{kit}/{name}.py: nothing said about {shown.name}"
        for made in (c for c in module.classes if not c.attributes):
            assert f"#### {made.name}.__init__\n\n```python\ndef __init__(" in text
    assert f"contracts/{kit}.md" in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.parametrize("module, shown", CLASSES, ids=named)
def test_every_field_of_a_spec_and_every_method_is_described(module, shown) -> None:
    assert shown.text or shown.attributes
    wrong = [m.name for m in shown.methods if not m.text]
    if shown.protocol or "Spec" in shown.bases:
        wrong += [a.name for a in shown.attributes if not a.text]
    assert not wrong, f"contracts/{module}.py, {shown.name}: nothing said about {wrong}"


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if f.provisional], ids=lambda f: f.name)
def test_a_provisional_family_says_so_in_its_module(family) -> None:
    module = family.spec.removeprefix("sglcore.contracts.").partition(":")[0]
    assert "Provisional" in read(module).text.splitlines()[0]


def test_how_each_family_is_chosen_is_told_with_flags_that_exist() -> None:
    assert list(CHOSEN) == list(FAMILIES)
    flags = {"--" + name.replace("_", "-") for name in ServerConfig.__struct_fields__}
    assert set(re.findall(r"`(--[a-z-]+)`", " ".join(CHOSEN.values()))) <= flags


def test_pages_are_written_and_old_ones_removed_without_torch(tmp_path) -> None:
    (tmp_path / "gone.md").write_text("of a family that is gone")
    code = "import runpy, sys; sys.argv[1:] = [sys.argv[1]]; "
    code += f"runpy.run_module({contracts_page.__name__!r}, run_name='__main__'); "
    code += "sys.exit(bool({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == set(pages())
