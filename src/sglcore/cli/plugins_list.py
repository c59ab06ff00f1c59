"""`sglcore plugins list`: what packaging metadata says is installed. No plugin's code is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sglcore.cli.plugins_source import hooks_in, why_not_found
from sglcore.contracts.families import FAMILIES
from sglcore.errors import ConfigError, PluginError
from sglcore.installed import installed
from sglcore.plugins import Plugins, select
from sglcore.registry import Entry

COLUMNS = ("family", "name", "api", "reads", "distribution", "version", "hooks", "state")


@dataclass(frozen=True)
class Row:
    """One registered name.

    api: what the plugin speaks. reads: the oldest and newest version that this core reads, empty for a family it
    does not know. hooks: the hooks that a hook module implements, as its source says. state: "ok", "loads when
    named", or why it cannot be used: "refused: ..." or "broken: ...".
    """

    family: str
    name: str
    api: int
    reads: tuple[int, ...]
    distribution: str
    version: str
    hooks: tuple[str, ...]
    state: str


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to `group`."""
    group.command("list")(list_plugins)


def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    family: Annotated[str | None, typer.Option("--family", metavar="FAMILY", help="Only this family.")] = None,
) -> None:
    """List every registered name: who it is from, the API it speaks and this core reads, its state, its hooks."""
    if family is not None and family not in FAMILIES:
        raise ConfigError(f"--family takes one of {', '.join(FAMILIES)}, not {family!r}.")
    rows = [row for row in rows_of(select(installed(), "auto")) if family in (None, row.family)]
    if as_json:
        import json

        typer.echo(json.dumps([vars(row) for row in rows], indent=2))
    else:
        typer.echo(table(rows))


def rows_of(plugins: Plugins) -> list[Row]:
    """All entries by family and name: usable ones, those that two distributions register, refused and broken ones."""
    clashes = {family: plugins.registry(family).clashes() for family in {e.family for e in plugins.entries}}
    rows = [_row(e, _state(e, clashes[e.family].get(e.name))) for e in plugins.entries]
    rows += [_row(left.entry, left.reason) for left in plugins.left_out]
    rows += [_row(r.entry, f"{'broken' if readable(r.entry) else 'refused'}: {r.reason}") for r in plugins.refused]
    order = {family: index for index, family in enumerate(FAMILIES)}
    return sorted(rows, key=lambda r: (order.get(r.family, len(order)), r.family, r.name, r.distribution))


def readable(entry: Entry) -> bool:
    """Whether this core reads the API that the entry speaks."""
    known = FAMILIES.get(entry.family)
    return known is not None and known.oldest <= entry.api <= known.version


def table(rows: list[Row]) -> str:
    """The rows under a header, in columns as wide as their longest word; without a column that would be empty."""
    columns = [c for c in COLUMNS if c != "hooks" or any(row.hooks for row in rows)]
    lines: list[list[str]] = [[c.upper() for c in columns]]
    lines += [[_cell(getattr(row, c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join("  ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(value: Any) -> str:
    """`reads` as a range, `hooks` as words."""
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return "-".join(str(n) for n in dict.fromkeys(value))
    return ", ".join(value) or "-" if isinstance(value, tuple) else str(value)


def _state(entry: Entry, clash: PluginError | None) -> str:
    if clash is not None:
        return f"refused: {clash}"
    problem = why_not_found(entry.value)
    return f"broken: {problem}" if problem else "ok"


def _row(entry: Entry, state: str) -> Row:
    known = FAMILIES.get(entry.family)
    return Row(
        family=entry.family,
        name=entry.name,
        api=entry.api,
        reads=(known.oldest, known.version) if known else (),
        distribution=entry.distribution,
        version=entry.version,
        hooks=hooks_in(entry.value) if entry.family == "hooks" else (),
        state=state,
    )
