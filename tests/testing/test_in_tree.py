"""Every plugin of this repository uses the kit: each family that it registers has its suite in its tests."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sglcore import testing
from sglcore.contracts.families import FAMILIES
from sglcore.testing.suites import HOMES

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/*/pyproject.toml"))]
# Parsers have two richer classes of their own.
CLASSES = {family: {name} for family, (_, name) in HOMES.items()}
CLASSES |= {
    "models": {"ModelConformance"},
    "tool_parsers": {"ToolParserConformance"},
    "reasoning_parsers": {"ReasoningParserConformance"},
}


def families(project: Path) -> list[str]:
    """Families that a distribution registers something in and that have a class of their own."""
    points = tomllib.loads((project / "pyproject.toml").read_text())["project"].get("entry-points", {})
    found = [match[1] for group in points if (match := re.fullmatch(r"sglcore\.(\w+)\.v\d+", group))]
    assert set(found) <= set(FAMILIES)
    return found


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_every_family_has_its_suite(project: Path):
    folder = project / "tests" / "builtin" if project == ROOT else project / "tests"
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    used = set(re.findall(r"^class Test\w+\((\w+Conformance)\):", text, re.M))
    name = tomllib.loads((project / "pyproject.toml").read_text())["project"]["name"]
    assert "InitConformance" in used and f'distribution = "{name}"' in text
    missing = [family for family in families(project) if family in CLASSES and not CLASSES[family] & used]
    assert not missing, f"{name} registers {missing} without a suite of the kit"


def test_every_class_of_the_kit_is_public():
    for name in {"InitConformance", "SpecConformance", *(name for names in CLASSES.values() for name in names)}:
        assert name in testing.__all__
        assert getattr(testing, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        testing.Nothing  # noqa: B018
