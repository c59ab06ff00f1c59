"""A group of commands, of which only the one that is asked for is imported; the others are names with help."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import typer

# Command -> (module with `register(group, argv)`, line of help).
Commands = Mapping[str, tuple[str, str]]


def add_group(app: typer.Typer, argv: list[str], name: str, text: str, commands: Commands) -> None:
    """Add the group `name` with help `text` to `app`; argv: what follows the group's name on the command line."""
    group = typer.Typer(add_completion=False, rich_markup_mode=None, help=text)
    group.callback(invoke_without_command=True)(_bare)
    wanted = argv[0] if argv else ""
    for command, (module, line) in commands.items():
        if command == wanted:
            importlib.import_module(module).register(group, argv[1:])
        else:
            group.command(command, help=line)(_placeholder)
    app.add_typer(group, name=name)


def _bare(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _placeholder() -> None:
    """Stands in the list of commands for one that is not being run."""
