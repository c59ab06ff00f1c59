"""`sglcore bench offline`: the throughput of an engine in this process."""

from __future__ import annotations

import sys

import typer

from sglcore.bench.options import OfflineOptions
from sglcore.cli.bench_flags import engine_command
from sglcore.cli.bench_output import check_output, keep, show
from sglcore.cli.command import Settings
from sglcore.cli.logs import set_up_logs
from sglcore.cli.progress import StartDisplay
from sglcore.config import EngineConfig
from sglcore.errors import ConfigError


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to the group."""
    engine_command(group, "offline", OfflineOptions, EngineConfig, offline, argv)


def offline(settings: Settings, options: OfflineOptions) -> None:
    """Give an engine in this process all requests at once and measure its throughput."""
    check_output(options, options.result_filename)
    config = settings.config(EngineConfig)
    set_up_logs("warning" if "log_level" not in settings.given else config.log_level)
    settings.plugins.report()
    with StartDisplay(sys.stderr) as display:
        from sglcore.bench import offline as bench
        from sglcore.bench.datasets import asks
        from sglcore.offline.engine import Engine

        engine = Engine(tell=display.tell, plugin_set=settings.plugins, **settings.values())
    with engine:
        if engine.text is None:
            raise ConfigError("Datasets are text.", remedy="Leave out --skip-tokenizer-init.")
        record, latencies = bench.measure(engine, asks(options, engine.text), options)
    show("Offline Throughput Benchmark Result", [("", [(label, record[key]) for label, key in bench.ROWS])])
    keep(options, [record], lambda: bench.report(record, latencies), options.result_filename)
