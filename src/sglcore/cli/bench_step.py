"""`sglcore bench step`: what a step costs the host."""

from __future__ import annotations

import math

import msgspec
import typer

from sglcore.bench.options import StepOptions
from sglcore.cli.bench_flags import options_command
from sglcore.cli.bench_output import check_output, keep, show


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to the group."""
    options_command(group, "step", StepOptions, step)


def step(options: StepOptions) -> None:
    """Measure plan, runner and commit of steps in which rows decode, some end and prompts arrive; there is no model.

    The ratio compares a step with a fixed loop of plain Python: it is the figure to compare between machines.
    """
    check_output(options)
    from sglcore.bench import stand_in
    from sglcore.bench import step as bench
    from sglcore.plugins import discover

    life = _life(options)
    built = stand_in.build(options, life, discover())
    try:
        load = bench.Load(
            built.engine.scheduler,
            rows=options.rows,
            life=life,
            prompt=options.prompt_len,
            vocab=options.vocab_size,
            context=stand_in.context_of(options, life),
            burst=options.arrivals,
        )
        run = load.result if options.scheduler_only else lambda batch: stand_in.run_with(built, batch)
        times = bench.measure(load, run, options.steps, options.warm)
    finally:
        built.engine.close()
    found = bench.figures(times, run=not options.scheduler_only)
    show("Host cost of a step", [("", [(_label(key), _fine(value)) for key, value in found.items()])])
    asked = msgspec.structs.asdict(options)
    record = {f"asked_{name}" if name in found else name: value for name, value in asked.items()} | found
    for name in ("output_file", "plot"):
        del record[name]
    keep(options, [record], lambda: bench.report(record, times, run=not options.scheduler_only))


def _life(options: StepOptions) -> int:
    """Tokens of an answer for which so many rows end at a step; where none are to end, more than are measured."""
    measured = options.warm + options.steps + options.rows
    return measured if not options.finishes else min(max(math.ceil(options.rows / options.finishes), 1), measured)


def _label(key: str) -> str:
    return key.removesuffix("_ms").replace("_", " ") + (" (ms)" if key.endswith("_ms") else "")


def _fine(value: float) -> str | float:
    return f"{value:.3f}" if isinstance(value, float) else value
