"""Commands: `sglcore NAME` on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sglcore.contracts.spec import Spec


@dataclass(frozen=True, kw_only=True)
class CommandSpec(Spec):
    """A command, `sglcore NAME`. The factory is the command itself: a `Command`, or a `typer.Typer` app for one that
    has commands of its own.

    The Spec is imported only when the command is run; `sglcore --help` shows its name and distribution from metadata. A
    name of the core's own commands is not taken over.
    """


class Command(Protocol):
    """A function that Typer makes a command of. Called in the CLI process, once, which then ends.

    Its parameters are the command's arguments and options (annotated as Typer wants them), its docstring the help text.
    Importing its module takes no torch, so that `--help` is quick; what the command needs it imports when it is called.
    """

    def __call__(self, *arguments: Any, **options: Any) -> None:
        """Do it. Output goes to standard output, complaints to standard error. ConfigError and PluginError become one
        paragraph and exit code 2; `typer.Exit` sets another code; anything else is a bug and shows a traceback."""
        ...
