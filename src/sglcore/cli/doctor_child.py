"""The process in which `sglcore doctor` runs a platform's checks: `python -m sglcore.cli.doctor_child ADDRESS FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sglcore.contracts.spec import load_address


def main(address: str, result: str) -> None:
    """Call `module:function` and write what it returns to a file, as JSON."""
    Path(result).write_text(json.dumps(load_address(address)()))


if __name__ == "__main__":
    main(*sys.argv[1:])
