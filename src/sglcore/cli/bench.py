"""`sglcore bench`: the group. Only the command that is asked for is imported; the others are names with help."""

from __future__ import annotations

import typer

from sglcore.cli.group import Commands, add_group

COMMANDS: Commands = {
    "serving": ("sglcore.cli.bench_serving", "Put load on a server and measure latency and throughput."),
    "offline": ("sglcore.cli.bench_offline", "Measure the throughput of an engine in this process."),
    "one-batch": ("sglcore.cli.bench_one_batch", "Measure prefill and decoding of one static batch."),
    "startup": ("sglcore.cli.bench_startup", "Measure a server's way to its first token, phase by phase."),
    "step": ("sglcore.cli.bench_step", "Measure what a step costs the host, without a model."),
}


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the group to `app`."""
    add_group(app, argv, "bench", "Measure servers, engines and steps.", COMMANDS)
