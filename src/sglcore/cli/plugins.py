"""`sglcore plugins`: the group. Only the command that is asked for is imported; the others are names with help."""

from __future__ import annotations

import typer

from sglcore.cli.group import Commands, add_group

COMMANDS: Commands = {
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
    add_group(app, argv, "plugins", "Show, check and make plugins.", COMMANDS)
