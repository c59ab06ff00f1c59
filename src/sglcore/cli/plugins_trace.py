"""`sglcore plugins trace`: runs another command with every hook call printed to stderr, its child processes' too."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sglcore.errors import ConfigError
from sglcore.plugins import TRACE_VARIABLE

_AS_IT_IS = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to `group`."""
    settings = _AS_IT_IS if argv[:1] != ["--help"] else None  # what follows a command is the command's
    group.command("trace", context_settings=settings)(trace)


def trace(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", show_default=False, help="As in `generate -p Hello demo`."),
    ] = None,
) -> None:
    """Run a command of sglcore with a line on stderr for every hook call: hook, plugin, time, process."""
    if not command:
        raise ConfigError("No command was named.", remedy="As in `sglcore plugins trace generate -p Hello demo`.")
    from sglcore.cli.main import run

    os.environ[TRACE_VARIABLE] = "1"  # child processes read it too
    raise typer.Exit(run(command))
