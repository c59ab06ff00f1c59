"""The plan's fingerprints: what changes them and what does not."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from sglcore.plugin_plan import PluginPlan, fingerprint, plan_difference

RECORD = (
    "pkg/__init__.py,sha256=aaa,10\npkg/__pycache__/x.pyc,,\np-1.dist-info/METADATA,sha256=bbb,20\n"
    "p-1.dist-info/INSTALLER,sha256=pip,4\n../../../bin/tool,sha256=ccc,200\np-1.dist-info/RECORD,,\n"
)
ROW = ("models", "X", "m:S", "p", "1", 1)


@pytest.fixture
def dist(tmp_path: Path):
    info = tmp_path / "p-1.dist-info"
    info.mkdir()

    def make(**files: str) -> metadata.Distribution:
        for name, text in ({"METADATA": "Name: p\nVersion: 1\n", "entry_points_txt": "[a]\nb = c\n"} | files).items():
            (info / name.replace("_txt", ".txt").replace("_json", ".json")).write_text(text)
        return metadata.Distribution.at(info)

    return make


def test_a_record_tells_content_apart_and_forgives_what_the_installer_wrote(dist):
    first = fingerprint(dist(RECORD=RECORD))
    assert first.startswith("record:")
    moved = RECORD.replace("=pip,", "=uv,").replace("=ccc", "=ddd").replace("__pycache__/x", "__pycache__/y")
    shuffled = "\n".join(reversed(moved.splitlines()))
    assert fingerprint(dist(RECORD=shuffled)) == first
    assert fingerprint(dist(RECORD=RECORD.replace("=aaa", "=aab"))) != first


def test_an_editable_install_and_one_without_record_say_so(dist):
    bare = fingerprint(dist())
    assert bare.startswith("metadata:")
    editable = dist(RECORD=RECORD, direct_url_json='{"url": "file:///x", "dir_info": {"editable": true}}')
    assert fingerprint(editable) == bare
    assert fingerprint(dist(direct_url_json='{"url": "x", "archive_info": {}}')).startswith("record:")
    assert fingerprint(dist(direct_url_json="damaged", RECORD="")) == bare
    assert fingerprint(dist(entry_points_txt="[a]\nb = d\n", RECORD="")) != bare
    assert fingerprint(None) == "none"


def test_the_digest_is_over_entries_and_content_not_over_who_asked():
    plan = PluginPlan((ROW,), (("p", "1", "record:a"),))
    assert plan.digest == PluginPlan((ROW,), (("p", "1", "record:a"),), ("p",)).digest
    others = [PluginPlan((ROW,), (("p", "1", "record:b"),)), PluginPlan((), (("p", "1", "record:a"),))]
    assert len({plan.digest, *(o.digest for o in others)}) == 3


@pytest.mark.parametrize(
    ("rows", "distributions", "told"),
    [
        ((ROW,), (("p", "1", "record:a"),), ""),
        ((ROW,), (), "p 1 is not there"),
        ((ROW,), (("p", "2", "record:a"),), "p is 2, not 1"),
        ((ROW,), (("p", "1", "record:b"),), "p 1 has other content (record:b..., not record:a...)"),
        ((ROW,), (("p", "1", "record:a"), ("q", "3", "x")), "q 3 is there too"),
        ((), (("p", "1", "record:a"),), "p 1 does not register models 'X' as m:S (API 1)"),
        ((ROW, ("ops", "o", "m:O", "p", "1", 1)), (("p", "1", "record:a"),), "p 1 registers ops 'o' too"),
    ],
)
def test_the_first_difference_is_told(rows, distributions, told):
    assert plan_difference(PluginPlan((ROW,), (("p", "1", "record:a"),)), PluginPlan(rows, distributions)) == told
