"""The committed flag reference is the generated one."""

from __future__ import annotations

from pathlib import Path

from sglcore.cli.flags import flags_of
from sglcore.cli.flags_page import page
from sglcore.cli.known_flags import KNOWN
from sglcore.server_config import ServerConfig

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "flags.md"


def test_the_committed_page_is_the_generated_one() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == page()


def test_every_flag_has_its_line() -> None:
    text = page()
    assert [f.option for f in flags_of(ServerConfig) if text.count(f"\n| `{f.option}`") != 1] == []
    assert [name for name in KNOWN if text.count(f"\n- `--{name}`") != 1] == []
