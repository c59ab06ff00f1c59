"""Hard and soft requirements, met and unmet, without importing anything."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from sglcore.requirements import unmet

THERE = metadata.version("msgspec")


@pytest.fixture
def with_requires(tmp_path: Path):
    def make(*lines: str) -> metadata.Distribution:
        info = tmp_path / "p-1.dist-info"
        info.mkdir()
        requires = "".join(f"Requires-Dist: {line}\n" for line in lines)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: p\nVersion: 1\n{requires}")
        return metadata.Distribution.at(info)

    return make


@pytest.mark.parametrize(
    "line",
    [
        "msgspec",
        f"msgspec=={THERE}",
        "msgspec>=0.1; python_version >= '3'",
        "no-such-thing-here; python_version < '3'",
        "no-such-thing-here; extra == 'test'",
        "no-such-thing-here; extra == 'runtime' and sys_platform == 'nowhere'",
        "msgspec[yaml]>=0.1",
        "Msg_Spec>0; extra == 'never'",
    ],
)
def test_met_or_not_asked_for(with_requires, line):
    assert unmet(with_requires(line)) == []


@pytest.mark.parametrize(
    ("line", "requirement", "installed", "pip"),
    [
        ("no-such-thing-here", "no-such-thing-here", None, "pip install no-such-thing-here"),
        ("no-such-thing-here>=0.6", "no-such-thing-here>=0.6", None, "pip install 'no-such-thing-here>=0.6'"),
        ("msgspec>=99; extra == 'runtime'", "msgspec>=99", THERE, "pip install 'msgspec>=99'"),
        ("msgspec (>=99)", "msgspec>=99", THERE, "pip install 'msgspec>=99'"),
    ],
)
def test_unmet(with_requires, line, requirement, installed, pip):
    (miss,) = unmet(with_requires(line))
    assert (miss.requirement, miss.installed, miss.pip, miss.problem) == (requirement, installed, pip, "")
    assert requirement in str(miss) and (installed or "not installed") in str(miss)


def test_order_and_all_of_them(with_requires):
    found = unmet(with_requires("zzz-none>1", "msgspec", "aaa-none"))
    assert [miss.requirement for miss in found] == ["zzz-none>1", "aaa-none"]


def test_a_line_that_is_no_requirement_is_told(with_requires):
    (miss,) = unmet(with_requires("not a requirement !!"))
    assert miss.problem and "'not a requirement !!', which cannot be read" in str(miss)


def test_by_name_and_by_no_name():
    assert unmet("pluggy") == []
    with pytest.raises(metadata.PackageNotFoundError):
        unmet("no-such-thing-here")


def test_bare_names_need_no_packaging(tmp_path):
    info = tmp_path / "p-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: p\nVersion: 1\nRequires-Dist: msgspec\n")
    code = (
        "import sys; from sglcore.requirements import unmet; assert unmet('p') == []; print('packaging' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    assert done.stdout.strip() == "False"
