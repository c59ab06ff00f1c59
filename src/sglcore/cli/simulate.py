"""`sglcore simulate`: replay a trace of requests through the scheduler, in virtual time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sglcore.errors import ConfigError

Trace = Annotated[Path | None, typer.Argument(metavar="TRACE", help="JSON lines: at, prompt, output, prefix ...")]


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the command to `app`."""
    app.command("simulate")(simulate)


def simulate(
    trace: Trace = None,
    max_total_tokens: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="Tokens the KV pool holds.")] = 200_000,
    page_size: Annotated[int, typer.Option(min=1, max=1024, help="Tokens in a KV page.")] = 16,
    max_running_requests: Annotated[int, typer.Option(min=1, max=65536, help="Rows that may run at once.")] = 256,
    chunked_prefill_size: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="Prompt tokens per step.")] = 2048,
    max_queued_requests: Annotated[int | None, typer.Option(min=1, help="Requests that may wait.")] = None,
    schedule_policy: Annotated[str, typer.Option(help="Order of the waiting queue.")] = "fcfs",
    disable_radix_cache: Annotated[bool, typer.Option(help="Do not keep prefixes.")] = False,
    enable_priority_scheduling: Annotated[bool, typer.Option(help="Higher priority goes first.")] = False,
    cost: Annotated[str, typer.Option(help="JSON: seconds per step, prefill_token, decode_row, kv_token.")] = "{}",
    plot: Annotated[Path | None, typer.Option(help="Write batch, queue, pool and cache over time as SVG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    example: Annotated[int, typer.Option(min=0, max=100_000, help="Print an example trace of so many requests.")] = 0,
) -> None:
    """Replay TRACE through the real scheduler and page accounting, in virtual time against a cost model."""
    from sglcore.plugins import discover
    from sglcore.simulation import plot as plots
    from sglcore.simulation import trace as traces
    from sglcore.simulation.run import Machine, Simulator, summary

    if example:
        for request in traces.example(example):
            typer.echo(traces.msgspec.json.encode(request).decode())
        return
    if trace is None:
        raise ConfigError("simulate needs a TRACE.", remedy="`sglcore simulate --example 500` prints one.")
    machine = Machine(
        tokens=max_total_tokens,
        page_size=page_size,
        rows=max_running_requests,
        chunk=chunked_prefill_size,
        cache=not disable_radix_cache,
        priority=enable_priority_scheduling,
        queued=max_queued_requests,
    )
    policy = discover().registry("policies").factory(schedule_policy)()
    result = Simulator(traces.read_trace(trace), machine, traces.read_cost(cost), policy).run()
    figures = summary(result)
    if plot is not None:
        plot.write_text(plots.svg(result.moments, f"{trace.name}: {schedule_policy}, {max_total_tokens} tokens of KV"))
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        typer.echo(f"{name.replace('_', ' '):26} {value}")
