"""`sglcore bench serving`: load on a server, with SGLang's flags and figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from sglcore.bench.options import ServingOptions
from sglcore.cli.bench_flags import options_command
from sglcore.cli.bench_output import check_output, keep, show

if TYPE_CHECKING:
    from sglcore.bench.metrics import Outcome

NOTHING_SUCCEEDED = 1


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to the group."""
    options_command(group, "serving", ServingOptions, serving)


def serving(options: ServingOptions) -> None:
    """Put load on a server and measure it from outside: throughput, time to first token, time between tokens.

    The exit status is 1 where no request succeeded.
    """
    check_output(options)
    import asyncio

    from sglcore.bench.metrics import SERVING_ROWS
    from sglcore.bench.serving import measure
    from sglcore.bench.serving_report import report
    from sglcore.cli.serve import allow_open_files

    allow_open_files()
    with ExitStack() as stack:
        run = asyncio.run(measure(options, lambda count: _progress(stack, count, hidden=options.disable_tqdm)))
    setting = [
        ("Backend", options.backend),
        ("Traffic request rate", options.request_rate),
        ("Max request concurrency", options.max_concurrency or "not set"),
    ]
    show(
        "Serving Benchmark Result",
        [("", setting), *((title, [(label, run.record[key]) for label, key in rows]) for title, rows in SERVING_ROWS)],
    )
    if run.first_error:
        typer.echo(f"{run.record['failed']} requests failed; the first: {run.first_error}", err=True)
    keep(options, [run.record], lambda: report(run))
    if not run.record["completed"]:
        raise typer.Exit(NOTHING_SUCCEEDED)


def _progress(stack: ExitStack, count: int, *, hidden: bool) -> Callable[[Outcome], None]:
    """A bar on a terminal, until the stack is closed; returns what moves it."""
    if hidden or not sys.stderr.isatty():
        return lambda outcome: None
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("  requests"), BarColumn(bar_width=30), MofNCompleteColumn(), *times)
    bars = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = bars.add_task("", total=count)
    return lambda outcome: bars.advance(task)
