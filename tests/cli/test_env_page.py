"""The committed reference of environment variables is the generated one, and names all that the code reads."""

from __future__ import annotations

import re
from pathlib import Path

from sglcore.cli.env_page import OTHERS, OWN, page
from sglcore.cli.flags import flags_of
from sglcore.server_config import ServerConfig

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "reference" / "env.md"
PYTHONS = {"PYTHONPATH"}
FLAGS = {flag.variable for flag in flags_of(ServerConfig)}
WORD = r"""["'](\w+)["']"""
CALLS = re.compile(
    rf"environ(?:\.get|\.setdefault|\.pop)?[\[(]\s*{WORD}|getenv\(\s*{WORD}|{WORD} (?:not )?in os\.environ"
)
CONSTANT = re.compile(r"""["'](SGLCORE_[A-Z0-9_]*[A-Z0-9])\b""")


def sources() -> list[Path]:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "plugins").glob("*/*/src/**/*.py")]
    return [file for file in files if file.name != "env_page.py"]


def read_by_the_code() -> set[str]:
    found: set[str] = set()
    for file in sources():
        text = file.read_text(encoding="utf-8")
        found |= {name for groups in CALLS.findall(text) for name in groups if name}
        found |= set(CONSTANT.findall(text))
    return found


def test_the_committed_page_is_the_generated_one() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == page()


def test_every_variable_that_the_code_reads_is_told() -> None:
    read = read_by_the_code()
    assert {"OMP_NUM_THREADS", "SGLCORE_TRACE_HOOKS", "CUDA_VISIBLE_DEVICES"} <= read, "the search works"
    assert read - set(OWN) - set(OTHERS) - FLAGS - PYTHONS == set()


def test_nothing_is_told_of_sglcores_own_that_nobody_reads() -> None:
    assert set(OWN) - read_by_the_code() - FLAGS == {"SGLCORE_CONFIG"}, "made of a prefix and a name"


def test_every_flag_has_its_line() -> None:
    assert [name for name in FLAGS if page().count(f"\n| `{name}` | `--") != 1] == []
