"""`sglcore bench one-batch`: the latency of one static batch."""

from __future__ import annotations

import sys

import msgspec
import typer

from sglcore.bench.options import OneBatchOptions
from sglcore.cli.bench_flags import engine_command
from sglcore.cli.bench_output import check_output, keep, show
from sglcore.cli.command import Settings
from sglcore.cli.logs import set_up_logs
from sglcore.cli.progress import StartDisplay
from sglcore.config import EngineConfig

LABELS = (
    ("Prefill latency (s)", "prefill_latency"),
    ("Prefill throughput (tok/s)", "prefill_throughput"),
    ("Median decode latency (s)", "median_decode_latency"),
    ("Median decode throughput (tok/s)", "median_decode_throughput"),
    ("Total latency (s)", "total_latency"),
    ("Overall throughput (tok/s)", "overall_throughput"),
)


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to the group."""
    engine_command(group, "one-batch", OneBatchOptions, EngineConfig, one_batch, argv)


def one_batch(settings: Settings, options: OneBatchOptions) -> None:
    """Run one batch through the engine in this process, for each size asked: prefill, then decoding step by step.

    Prompts are computed whole, and there are as many rows as the largest batch, unless flags say otherwise.
    """
    check_output(options, options.result_filename)
    config = settings.config(EngineConfig)
    set_up_logs("warning" if "log_level" not in settings.given else config.log_level)
    settings.plugins.report()
    from sglcore.bench import one_batch as bench

    rows, _, _ = bench.needed(options)
    config = msgspec.structs.replace(
        config,
        chunked_prefill_size=config.chunked_prefill_size or -1,
        max_running_requests=config.max_running_requests or rows,
    )
    given = {*settings.given, "chunked_prefill_size", "max_running_requests"}
    with StartDisplay(sys.stderr) as display:
        from sglcore.offline.start import open_model

        opened = open_model(config, given, settings.plugins)
        built = opened.start(display.tell)
    try:
        bench.check(options, built.info)
        while built.engine.prepare():
            pass
        results = []
        vocab = built.info["vocab_size"]
        for record, steps in bench.measure(built.engine, options, vocab, lambda text: typer.echo(text, err=True)):
            results.append((record, steps))
            name = "{batch_size} x {input_len}+{output_len}".format_map(record)
            show(name, [("", [(label, _fine(record[key])) for label, key in LABELS])])
    finally:
        opened.stop(built)
    keep(options, [record for record, _ in results], lambda: bench.report(results), options.result_filename)


def _fine(value: float | None) -> str | float | None:
    """Seconds below one with five decimals."""
    return f"{value:.5f}" if value is not None and value < 1 else value
