"""`python -m sglcore_plugin_scripted_model FOLDER LINES.json`: a checkpoint from a list of {"text", "after", ...}."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sglcore.errors import ConfigError
from sglcore_plugin_scripted_model.checkpoint import Say, write


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 2 where the arguments or the file are wrong."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        lines = [Say(**entry) for entry in json.loads(Path(arguments[1]).read_text(encoding="utf-8"))]
        print(write(Path(arguments[0]), lines))
    except (OSError, ValueError, TypeError, ConfigError) as error:
        print(f"{arguments[1]}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
