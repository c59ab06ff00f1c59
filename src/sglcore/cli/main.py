"""`sglcore`: finds the command, imports its module alone, and turns errors into one paragraph."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

import sglcore
from sglcore.errors import SglcoreError

# Command -> (module with `register(app, argv)`, line of help). Help is here, so that listing imports no module.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("sglcore.cli.serve", "Serve a model over HTTP."),
    "generate": ("sglcore.cli.generate", "Answer prompts in this process, without a server."),
    "chat": ("sglcore.cli.chat", "Talk to a model in the terminal."),
    "simulate": ("sglcore.cli.simulate", "Replay a trace of requests through the scheduler, without a model."),
    "bench": ("sglcore.cli.bench", "Measure servers, engines, starts and steps."),
    "replay": ("sglcore.cli.replay", "Send requests that a server has dumped again."),
    "plugins": ("sglcore.cli.plugins", "Show what is installed."),
    "doctor": ("sglcore.cli.doctor", "Check this machine: libraries, devices, plugins, and what would mend them."),
    "env": ("sglcore.cli.env", "Show versions and hardware, for a bug report."),
    "version": ("sglcore.cli.version", "Show sglcore's version."),
}
USER_ERROR = 2
INTERRUPTED = 130
PLUGIN_GROUP = "sglcore.commands.v1"


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit status: 0, 2 for a user's error, 130 when interrupted."""
    try:
        command = typer.main.get_command(build_app(argv))
        status = command.main(argv or ["--help"], prog_name="sglcore", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except SglcoreError as error:
        return _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has left (`| head`); the interpreter must not flush into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _complain(_usage(error))


def build_app(argv: list[str]) -> typer.Typer:
    """The Typer app in which only the command that `argv` asks for is real; the others are names with help."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_root)
    wanted = argv[0] if argv else ""
    for name, (module, text) in COMMANDS.items():
        if name == wanted:
            importlib.import_module(module).register(app, argv[1:])
        else:
            app.command(name, help=text)(_placeholder)
    if wanted not in COMMANDS:
        _add_plugin_commands(app, wanted)
    return app


def _add_plugin_commands(app: typer.Typer, wanted: str) -> None:
    from importlib import metadata

    for point in metadata.entry_points(group=PLUGIN_GROUP):
        if point.name == wanted:
            _register_plugin(app, wanted)
        elif point.name not in COMMANDS:
            owner = point.dist.name if point.dist else "a plugin"
            app.command(point.name, help=f"From {owner}.")(_placeholder)


def _placeholder() -> None:
    """Stands in the list of commands for one that is not being run."""


def _root(
    version: Annotated[bool, typer.Option("--version", help="Show sglcore's version.", is_eager=True)] = False,
) -> None:
    """A large language model serving engine with a small core and plugins."""
    if version:
        typer.echo(f"sglcore {sglcore.__version__}")
        raise typer.Exit


def _register_plugin(app: typer.Typer, name: str) -> None:
    """Add a plugin's command: its factory is a Typer app, or a function that Typer can make a command of."""
    from sglcore.plugins import discover

    found: typer.Typer | Callable[..., Any] = discover().registry("commands").factory(name)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name)
    else:
        app.command(name, help=inspect.getdoc(found))(found)


def _usage(error: Exception) -> str:
    """The text of a parser's error; an unknown flag is explained."""
    unknown = getattr(error, "option_name", None)
    context = getattr(error, "ctx", None)
    if type(error).__name__ != "NoSuchOption" or not unknown or context is None:
        return str(error.format_message())  # type: ignore[attr-defined]
    shown = [o for p in context.command.params if not getattr(p, "hidden", False) for o in p.opts if o.startswith("--")]
    from sglcore.cli.known_flags import known_name, refusal, unknown_flag

    known = known_name(unknown)
    if known and "--model-path" in shown:
        return str(refusal(known))
    return str(unknown_flag(unknown, shown))


def _complain(text: str) -> int:
    typer.echo(f"sglcore: {' '.join(text.split())}", err=True)
    return USER_ERROR
