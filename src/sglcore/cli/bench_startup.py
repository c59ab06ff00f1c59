"""`sglcore bench startup`: a server's way to its first token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
import typer

from sglcore.bench.options import StartupOptions
from sglcore.cli.bench_flags import engine_command
from sglcore.cli.bench_output import check_output, keep, show
from sglcore.cli.command import Settings
from sglcore.server_config import ServerConfig

ELSEWHERE = ("host", "port")  # the benchmark chooses where the server listens


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to the group."""
    engine_command(group, "startup", StartupOptions, ServerConfig, startup, argv)


def startup(settings: Settings, options: StartupOptions) -> None:
    """Start `sglcore serve` with the same flags, several times, and measure its phases and its way to a first token."""
    check_output(options)
    config = settings.config(ServerConfig)
    settings.plugins.report()
    from sglcore.bench import startup as bench
    from sglcore.engine.model_files import resolve_model

    files = resolve_model(config.model_path, config, settings.plugins)
    arguments, secrets = serve_arguments(settings)
    results = []
    environment = {**os.environ, **secrets}
    for result in bench.starts(arguments, environment, files, options.cold, options.rounds, options.start_timeout):
        results.append(result)
        typer.echo(f"  {result['start']} start: first token after {result['first_token']:.2f} s", err=True)
    show("Start", bench.summary(results))
    keep(options, [{"model": config.model_path, **r} for r in results], lambda: bench.report(results))


def serve_arguments(settings: Settings) -> tuple[list[str], Mapping[str, str]]:
    """What `serve` is to be given: arguments, and variables for keys, which a list of processes must not show."""
    arguments: list[str] = []
    secrets: dict[str, str] = {}
    for flag in settings.flags:
        given = settings.given.get(flag.name)
        if given is None or flag.name in ELSEWHERE:
            continue
        value = flag.read(given.value, given.source)
        if flag.name.endswith("api_key"):
            secrets[flag.variable] = str(value)
        else:
            arguments += _argument(flag.option, value, switch=flag.switch)
    return arguments, secrets


def _argument(option: str, value: Any, *, switch: bool) -> list[str]:
    if switch:
        return [option if value else f"--no-{option[2:]}"]
    values = value if isinstance(value, tuple | list) else [value]
    return [f"{option}={one if isinstance(one, str) else msgspec.json.encode(one).decode()}" for one in values]
