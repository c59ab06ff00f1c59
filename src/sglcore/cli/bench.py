"""`sglcore bench`: the group. Only the command that is asked for is imported; the others are names with help."""

from __future__ import annotations

import importlib

import typer

# Command -> (module with `register(group, argv)`, line of help).
COMMANDS: dict[str, tuple[str, str]] = {
    "serving": ("sglcore.cli.bench_serving", "Put load on a server and measure latency and throughput."),
    "offline": ("sglcore.cli.bench_offline", "Measure the throughput of an engine in this process."),
    "one-batch": ("sglcore.cli.bench_one_batch", "Measure prefill and decoding of one static batch."),
    "startup": ("sglcore.cli.bench_startup", "Measure a server's way to its first token, phase by phase."),
    "step": ("sglcore.cli.bench_step", "Measure what a step costs the host, without a model."),
}


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the group to `app`."""
    group = typer.Typer(add_completion=False, rich_markup_mode=None, help="Measure servers, engines and steps.")
    group.callback(invoke_without_command=True)(_bare)
    wanted = argv[0] if argv else ""
    for name, (module, text) in COMMANDS.items():
        if name == wanted:
            importlib.import_module(module).register(group, argv[1:])
        else:
            group.command(name, help=text)(_placeholder)
    app.add_typer(group, name="bench")


def _bare(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _placeholder() -> None:
    """Stands in the list of commands for one that is not being run."""
