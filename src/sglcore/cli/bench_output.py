"""What all benchmarks do with their results: a table, a line of JSON, a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sglcore.errors import ConfigError

if TYPE_CHECKING:
    from sglcore.bench.charts import Report
    from sglcore.bench.options import OutputOptions

Sections = Iterable[tuple[str, Iterable[tuple[str, Any]]]]


def check_output(options: OutputOptions, also: str | None = None) -> None:
    """Raises ConfigError where results could not be written, before anything is measured. also: another file."""
    from sglcore.bench.report import check_plot

    check_plot(options.plot)
    for path in (options.output_file, also):
        if path is not None and not Path(path).resolve().parent.is_dir():
            raise ConfigError(f"{path}: there is no such folder to write to.")


def show(title: str, sections: Sections) -> None:
    """Print a table to standard output."""
    from sglcore.bench.records import table

    typer.echo(table(title, sections))


def keep(
    options: OutputOptions, records: Iterable[Mapping[str, Any]], report: Callable[[], Report], also: str | None = None
) -> None:
    """Write what was asked for: records to the output file and to `also`, a report."""
    from sglcore.bench.records import append_line
    from sglcore.bench.report import write

    for path in dict.fromkeys(filter(None, (options.output_file, also))):
        for record in records:
            append_line(path, record)
    if options.plot is not None:
        write(report(), options.plot)
        typer.echo(f"Report: {options.plot}", err=True)
