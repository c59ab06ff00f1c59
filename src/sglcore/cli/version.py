"""`sglcore version`."""

from __future__ import annotations

import typer

import sglcore


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the command to `app`."""
    app.command("version")(version)


def version() -> None:
    """Show sglcore's version."""
    typer.echo(f"sglcore {sglcore.__version__}")
