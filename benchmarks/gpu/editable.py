"""`python editable.py SITE PROJECT...`: the metadata of projects, so that their entry points are found on a path.

What an editable installation would write, for a machine whose environment must stay as it is.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def write(site: Path, project: Path) -> None:
    """`NAME-VERSION.dist-info` of one project."""
    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    needs = [f"Requires-Dist: {need}" for need in told.get("dependencies", ())]
    for extra, parts in told.get("optional-dependencies", {}).items():
        needs += [f"Provides-Extra: {extra}", *(f'Requires-Dist: {part}; extra == "{extra}"' for part in parts)]
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {told['name']}", f"Version: {told['version']}", *needs, ""])
    )
    lines = []
    for group, entries in told.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    for project in sys.argv[2:]:
        write(Path(sys.argv[1]), Path(project))
