"""A pyproject read as if it were installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from sglcore.cli.plugins_project import read_project
from sglcore.errors import ConfigError
from sglcore.installed import installed
from sglcore.requirements import unmet

GOOD = """
[project]
name = "sglcore-plugin-x"
version = "1.2"
dependencies = ["sglcore", "no-such-a>=1; python_version > '3'"]

[project.optional-dependencies]
runtime = ["no-such-b>=2", "no-such-c; python_version < '3'"]
test = ["no-such-d"]

[project.scripts]
x = "x:main"

[project.entry-points."other.group"]
x = "not for sglcore"

[project.entry-points."sglcore.models.v1"]
XForCausalLM = "x.spec:SPEC"

[project.entry-points."sglcore.hooks.v1"]
x = "x.hooks"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_the_metadata_is_what_an_installation_would_have(tmp_path: Path) -> None:
    project = read_project(write(tmp_path, GOOD))
    assert project.points == {
        "sglcore.models.v1": {"XForCausalLM": "x.spec:SPEC"},
        "sglcore.hooks.v1": {"x": "x.hooks"},
    }
    distribution = metadata.PathDistribution(project.write_metadata(tmp_path / "site"))
    assert (distribution.name, distribution.version) == ("sglcore-plugin-x", "1.2")
    found = installed([distribution])
    assert not found.broken
    assert {(e.family, e.name, e.value, e.api) for e in found.entries} == {
        ("models", "XForCausalLM", "x.spec:SPEC", 1),
        ("hooks", "x", "x.hooks", 1),
    }
    assert [miss.requirement for miss in unmet(distribution)] == ["no-such-a>=1", "no-such-b>=2"]


def test_where_sources_and_tests_are(tmp_path: Path) -> None:
    project = read_project(write(tmp_path, GOOD))
    assert project.sources == tmp_path and project.tests is None
    (tmp_path / "src").mkdir()
    (tmp_path / "tests").mkdir()
    assert project.sources == tmp_path / "src" and project.tests == tmp_path / "tests"


BAD = {
    "no TOML": ("[project\n", "is not TOML: "),
    "no project": ("[tool.x]\n", "has no table [project]"),
    "project is a text": ('project = "x"\n', "has no table [project]"),
    "no name": ('[project]\nversion = "1"\n', "gives no name"),
    "name is a number": ("[project]\nname = 3\n", "gives no name"),
    "odd name": (GOOD.replace("sglcore-plugin-x", "a/b"), "'a/b' is no name"),
    "odd version": (GOOD.replace('"1.2"', '"../1"'), "'../1' is no version"),
    "dynamic version": ('[project]\nname = "x"\ndynamic = ["version"]\n', "version is dynamic"),
    "dynamic points": ('[project]\nname = "x"\nversion = "1"\ndynamic = ["entry-points"]\n', "entry-points is dynamic"),
    "nothing": ('[project]\nname = "x"\nversion = "1"\n', "registers nothing for sglcore"),
    "unquoted": (GOOD.replace('"sglcore.models.v1"', "sglcore.models.v1"), "is no group. Quote it whole"),
    "odd group": (GOOD.replace("sglcore.models.v1", "sglcore.models"), "is not sglcore.<family>.v<N>"),
    "no attribute": (GOOD.replace("x.spec:SPEC", "x.spec"), "'x.spec' is no `module:SPEC`"),
    "hook attribute": (GOOD.replace("x.hooks", "x:hooks"), "'x:hooks' is no name of a module"),
    "value a number": (GOOD.replace('"x.spec:SPEC"', "3"), "3 is no `module:SPEC`"),
    "odd key": (GOOD.replace("XForCausalLM", '"a\\n[b]"'), "is no `module:SPEC`"),
    "odd dependency": (GOOD.replace('"sglcore", ', "3, "), "dependencies are no list of texts"),
    "odd extra": (GOOD.replace('["no-such-d"]', '"no-such-d"'), "dependencies are no list of texts"),
    "a line too many": (GOOD.replace('"no-such-d"', '"a\\nName: b"'), "dependencies are no list of texts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_file_and_the_remedy(tmp_path: Path, case: str) -> None:
    text, told = BAD[case]
    with pytest.raises(ConfigError) as error:
        read_project(write(tmp_path, text))
    assert told in str(error.value)
    assert str(tmp_path / "pyproject.toml") in str(error.value) and error.value.remedy


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_project(tmp_path)
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_project(tmp_path)
