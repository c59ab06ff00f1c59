"""`sglcore plugins`: the group. Only the command that is asked for is imported; the others are names with help."""

from __future__ import annotations

import importlib

import typer

# Command -> (module with `register(group, argv)`, line of help).
COMMANDS: dict[str, tuple[str, str]] = {
    "list": ("sglcore.cli.plugins_list", "List what is installed; imports no plugin."),
    "doctor": ("sglcore.cli.plugins_doctor", "Import every plugin and say what is wrong."),
    "explain": ("sglcore.cli.plugins_explain", "Show which plugins serve a model, and why."),
    "new": ("sglcore.cli.plugins_new", "Write a small, complete plugin to begin with."),
    "verify": ("sglcore.cli.plugins_verify", "Run the conformance kit on a plugin."),
    "lock": ("sglcore.cli.plugins_lock", "Write the plugins in use to a lock file."),
    "trace": ("sglcore.cli.plugins_trace", "Run a command and print its hook calls."),
}


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the group to `app`."""
    group = typer.Typer(add_completion=False, rich_markup_mode=None, help="Show, check and make plugins.")
    group.callback(invoke_without_command=True)(_bare)
    wanted = argv[0] if argv else ""
    for name, (module, text) in COMMANDS.items():
        if name == wanted:
            importlib.import_module(module).register(group, argv[1:])
        else:
            group.command(name, help=text)(_placeholder)
    app.add_typer(group, name="plugins")


def _bare(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _placeholder() -> None:
    """Stands in the list of commands for one that is not being run."""
