"""Metadata that cannot be used: each fault with the file, and nothing of the others lost."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from sglcore.installed import Installed, installed

GOOD = "[sglcore.models.v1]\nGood = pkg.spec:SPEC\n"


def make(
    folder: Path, points: str | bytes, meta: str = "Metadata-Version: 2.1\nName: Some_Plugin\nVersion: 1.2\n"
) -> Path:
    info = folder / "some_plugin-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(meta)
    (info / "entry_points.txt").write_bytes(points if isinstance(points, bytes) else points.encode())
    return info


def read(*folders: Path) -> Installed:
    return installed(metadata.distributions(path=[str(f) for f in folders]))


def test_entries_are_read_with_name_version_and_api(tmp_path):
    make(tmp_path, GOOD + "# a comment\n\n[console_scripts]\nx = y:z\n[sglcore.hooks.v2]\nhere = pkg.hooks\n")
    found = read(tmp_path)
    assert [(e.family, e.name, e.value, e.distribution, e.version, e.api) for e in found.entries] == [
        ("models", "Good", "pkg.spec:SPEC", "Some_Plugin", "1.2", 1),
        ("hooks", "here", "pkg.hooks", "Some_Plugin", "1.2", 2),
    ]
    assert not found.broken and set(found.distributions) == {"some-plugin"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("x = pkg.spec", "'pkg.spec' is not `module:SPEC`"),
        ("x = pkg spec:SPEC", "is not `module:SPEC`"),
        ("x = 1pkg:SPEC", "is not `module:SPEC`"),
        ("x = pkg:SPEC[extra]", "is not `module:SPEC`"),
        ("x =", "'' is not `module:SPEC`"),
        ("only-a-name", "is not `name = module:SPEC`"),
        ("= pkg:SPEC", "is not `name = module:SPEC`"),
        ("Good = other:SPEC", "stands there twice, as 'pkg.spec:SPEC' and as 'other:SPEC'"),
    ],
)
def test_a_malformed_line_names_the_file_and_leaves_the_others_alone(tmp_path, line, told):
    info = make(tmp_path, f"{GOOD}{line}\n")
    found = read(tmp_path)
    assert [e.name for e in found.entries] == ["Good"]
    (refusal,) = found.broken
    assert told in refusal.reason and f"{info / 'entry_points.txt'} line 3" in refusal.reason
    assert "Some_Plugin 1.2" in str(refusal.error())


def test_a_hook_entry_leads_to_a_module(tmp_path):
    make(tmp_path, "[sglcore.hooks.v1]\nx = pkg:attribute\n")
    assert "'pkg:attribute' is not the name of a module" in read(tmp_path).broken[0].reason


def test_a_group_without_a_version_is_told(tmp_path):
    make(tmp_path, "[sglcore.models]\nX = pkg:SPEC\n")
    assert "group 'sglcore.models' is not sglcore.<family>.v<N>" in read(tmp_path).broken[0].reason


@pytest.mark.parametrize("meta", ["", "Metadata-Version: 2.1\nName: x\n", "Metadata-Version: 2.1\nVersion: 1\n"])
def test_metadata_without_name_or_version_is_told_by_the_folders_name(tmp_path, meta):
    info = make(tmp_path, GOOD, meta)
    (refusal,) = read(tmp_path).broken
    assert refusal.reason == f"{info / 'METADATA'} gives no Name and Version"
    assert (refusal.entry.distribution, refusal.entry.version) == ("some-plugin", "1.2")


def test_a_folder_without_metadata_is_told(tmp_path):
    info = make(tmp_path, GOOD)
    (info / "METADATA").unlink()
    assert "gives no Name and Version" in read(tmp_path).broken[0].reason


def test_bytes_that_are_no_text_are_told(tmp_path):
    make(tmp_path, GOOD.encode() + b"x\xff = pkg:SPEC\n")
    found = read(tmp_path)
    assert [e.name for e in found.entries] == ["Good"] and "it is not UTF-8" in found.broken[0].reason


def test_the_first_of_two_on_the_path_counts_as_for_imports(tmp_path):
    make(tmp_path / "a", GOOD)
    make(tmp_path / "b", GOOD.replace("Good", "Other"), "Metadata-Version: 2.1\nName: some.plugin\nVersion: 9\n")
    assert [e.name for e in read(tmp_path / "a", tmp_path / "b").entries] == ["Good"]
    assert [e.name for e in read(tmp_path / "b", tmp_path / "a").entries] == ["Other"]


def test_strangers_are_not_looked_at(tmp_path):
    make(tmp_path, "[console_scripts]\nbroken line\n", "")
    assert read(tmp_path) == Installed()
