"""`sglcore plugins lock`: writes the plugins in use to a file, which `--require-lock` holds a start to."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated

import typer

from sglcore.cli.sources import peek_selection
from sglcore.errors import ConfigError
from sglcore.plugin_lock import write_lock
from sglcore.plugins import discover

DEFAULT = "sglcore-plugins.lock"
_AS_SERVE = "As `sglcore serve` will be given it."


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to `group`."""
    group.command("lock")(lock)


def lock(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = None,
    plugins: Annotated[str | None, typer.Option("--plugins", metavar="NAMES", help=_AS_SERVE)] = None,
    no_plugin: Annotated[list[str] | None, typer.Option("--no-plugin", metavar="NAME", help=_AS_SERVE)] = None,
    apis: Annotated[str | None, typer.Option("--apis", metavar="NAMES", help=_AS_SERVE)] = None,
    config: Annotated[str | None, typer.Option("--config", metavar="FILE", help=_AS_SERVE)] = None,
) -> None:
    """Write the plugins in use to a lock file, sglcore-plugins.lock by default; `--require-lock` refuses others."""
    if file and output and file != output:
        raise ConfigError(f"Two files were named, {file} and --output {output}.", remedy="Keep one.")
    given: list[tuple[str, list[str | None]]] = [
        ("--plugins", [plugins]),
        ("--no-plugin", [*(no_plugin or ())]),
        ("--apis", [apis]),
        ("--config", [config]),
    ]
    words = [word for option, values in given for value in values if value for word in (option, value)]
    plan = discover(replace(peek_selection(words, os.environ), require_lock=None)).plan()
    path = output or file or DEFAULT
    write_lock(plan, path)
    typer.echo(f"{path}: {len(plan.distributions)} distributions, {len(plan.entries)} names, plan {plan.digest}")
