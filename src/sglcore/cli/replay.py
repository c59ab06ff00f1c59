"""`sglcore replay`: send the requests of a dump again and tell how it went."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sglcore.errors import ConfigError

NOTHING_SUCCEEDED = 1
KEY = "SGLCORE_API_KEY"


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the command to `app`."""
    app.command("replay")(replay)


def replay(
    input_file: Annotated[Path | None, typer.Option(help="A file that --dump-requests-folder has written.")] = None,
    input_folder: Annotated[Path | None, typer.Option(help="A folder of such files.")] = None,
    base_url: Annotated[str, typer.Option(help="The server to send to.")] = "http://127.0.0.1:30000",
    parallel: Annotated[int, typer.Option(min=1, max=65536, help="Requests in flight at once, at most.")] = 512,
    speed: Annotated[float, typer.Option(help="1: at the pace at which they came; 2: twice as fast; inf.")] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, max=2**31 - 1, help="Send the first so many alone.")] = None,
    timeout: Annotated[float, typer.Option(min=1, max=86400, help="Seconds that an answer may take.")] = 3600.0,
    api_key: Annotated[str | None, typer.Option(help=f"Key of the server; default: {KEY}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send the requests of a dump again, and report how many succeeded and how long they took.

    The exit status is 1 where none succeeded.
    """
    import asyncio
    import time

    import msgspec

    from sglcore.bench import replay as again
    from sglcore.bench.http_client import HttpClient
    from sglcore.cli.bench_output import show
    from sglcore.cli.serve import allow_open_files

    if (input_file is None) == (input_folder is None):
        raise ConfigError("Give either --input-file or --input-folder.")
    if not speed > 0:
        raise ConfigError(f"--speed takes a number above 0, not {speed:g}.", remedy="inf sends as fast as may be.")
    dumped = again.read_dumps([input_file] if input_file else again.files_of(input_folder or Path()))[:limit]
    if not dumped:
        raise ConfigError("There is no request in what was given.")
    key = api_key or os.environ.get(KEY)

    async def run() -> list[again.Sent]:
        async with HttpClient(base_url, {"Authorization": f"Bearer {key}"} if key else {}, timeout) as client:
            return await again.replay(client, dumped, parallel, speed, lambda sent: None)

    allow_open_files()
    began = time.monotonic()
    found = again.report(dumped, asyncio.run(run()), time.monotonic() - began)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        rows = [(name.replace("_", " "), value) for name, value in found.items() if name != "errors"]
        show("Replay", [("", rows)])
        for error, count in found["errors"].items():
            typer.echo(f"{count} times: {error}", err=True)
    if not found["succeeded"]:
        raise typer.Exit(NOTHING_SUCCEEDED)
