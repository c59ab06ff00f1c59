"""`sglcore plugins list`: what packaging metadata says is installed. No plugin's code is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sglcore.contracts.families import FAMILIES
from sglcore.errors import ConfigError, PluginError
from sglcore.plugins import Plugins, discover
from sglcore.registry import Entry

COLUMNS = ("family", "name", "api", "distribution", "version", "state")


@dataclass(frozen=True)
class Row:
    """One registered name. `state` is "ok", or why it cannot be used."""

    family: str
    name: str
    api: int
    distribution: str
    version: str
    state: str


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the group to `app`."""
    group = typer.Typer(add_completion=False, rich_markup_mode=None, help="Show what is installed.")
    group.callback(invoke_without_command=True)(_bare)
    group.command("list")(list_plugins)
    app.add_typer(group, name="plugins")


def _bare(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    family: Annotated[str | None, typer.Option("--family", metavar="FAMILY", help="Only this family.")] = None,
) -> None:
    """List every registered name: family, name, API version, distribution, version and state."""
    if family is not None and family not in FAMILIES:
        raise ConfigError(f"--family takes one of {', '.join(FAMILIES)}, not {family!r}.")
    rows = [row for row in rows_of(discover()) if family in (None, row.family)]
    if as_json:
        import json

        typer.echo(json.dumps([vars(row) for row in rows], indent=2))
    else:
        typer.echo(table(rows))


def rows_of(plugins: Plugins) -> list[Row]:
    """All entries by family and name: usable ones, clashing ones and refused ones with the reason."""
    clashes = {family: _clash(plugins, family) for family in {e.family for e in plugins.entries}}
    rows = [_row(e, _state(e, plugins.entries, clashes[e.family])) for e in plugins.entries]
    rows += [_row(refusal.entry, f"refused: {refusal.reason}") for refusal in plugins.refused]
    order = {family: index for index, family in enumerate(FAMILIES)}
    return sorted(rows, key=lambda r: (order.get(r.family, len(order)), r.family, r.name, r.distribution))


def table(rows: list[Row]) -> str:
    """The rows under a header, in columns as wide as their longest word."""
    lines: list[Any] = [[c.upper() for c in COLUMNS]]
    lines += [[str(getattr(row, c)) for c in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)).rstrip() for line in lines)


def _clash(plugins: Plugins, family: str) -> str:
    """The registry's complaint about two owners of one name, if there is one."""
    try:
        plugins.registry(family)
    except PluginError as error:
        return str(error)
    return ""


def _state(entry: Entry, entries: list[Entry], clash: str) -> str:
    twins = [e for e in entries if (e.family, e.name) == (entry.family, entry.name)]
    return f"refused: {clash}" if clash and any(e.distribution != entry.distribution for e in twins) else "ok"


def _row(entry: Entry, state: str) -> Row:
    return Row(entry.family, entry.name, entry.api, entry.distribution, entry.version, state)
