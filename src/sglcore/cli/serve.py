"""`sglcore serve`: start a server, showing how the start goes."""

from __future__ import annotations

import shlex
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

import msgspec
import typer

import sglcore
from sglcore.cli.command import Settings, config_command
from sglcore.cli.logs import set_up_logs
from sglcore.cli.progress import StartDisplay
from sglcore.engine.adjust import adjusted
from sglcore.server_config import ServerConfig

# Key in the engine's info -> how it is told.
FACTS = (
    ("platform", "on {platform}"),
    ("dtype", "in {dtype}"),
    ("context_length", "{context_length} tokens of context"),
    ("max_total_num_tokens", "{max_total_num_tokens} in the KV cache"),
)


def register(app: typer.Typer, argv: list[str]) -> None:
    """Add the command to `app`."""
    config_command(app, "serve", ServerConfig, serve, argv)


def serve(settings: Settings) -> None:
    """Serve a model over HTTP: MODEL is a directory, a .gguf file, a hub id, or a name a plugin provides."""
    config = adjusted(settings.config(ServerConfig), set(settings.given), settings.plugins)
    set_up_logs(config.log_level, form=config.log_requests_format, http=config.log_level_http)
    settings.plugins.report()
    allow_open_files()
    signal.signal(signal.SIGTERM, _stop)  # also while starting: what was begun is undone on the way out
    from sglcore.server.launch import serve as run

    with StartDisplay(sys.stderr) as display:

        def on_ready(url: str, info: dict[str, Any]) -> None:
            display.close()
            typer.echo(ready_text(config, url, info, display.seconds), err=True)

        run(config, settings.plugins, display.tell, on_ready)


def allow_open_files(most: int = 65536) -> None:
    """Raise this process's limit of open files, and that of those it starts, as far as it may: each stream is one."""
    try:
        import resource
    except ImportError:  # a system without such limits
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS knows a lower one that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def ready_text(config: ServerConfig, url: str, info: dict[str, Any], seconds: float) -> str:
    """Where the server is and how to try it. The API key is not repeated."""
    name = config.served_model_name or config.model_path
    facts = [template.format_map(info) for key, template in FACTS if key in info]
    lines = [
        f"sglcore {sglcore.__version__} serves {name} at {url} (ready in {seconds:.1f} s)",
        f"  {', '.join(facts)}" if facts else "",
        f"  Try it: {curl(config, url, name)}",
        "  Stop it: ctrl-C",
    ]
    return "\n".join(line for line in lines if line)


def curl(config: ServerConfig, url: str, name: str) -> str:
    """A shell line that asks the server something."""
    body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "Hello"}]}
    path = "/v1/chat/completions"
    if config.skip_tokenizer_init or not config.serves("openai"):
        path, body = "/generate", {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 8}}
    if not config.serves("openai") and not config.serves("native"):
        return f"curl {url}/health_generate"
    key = '-H "Authorization: Bearer $API_KEY" ' if config.api_key else ""
    data = shlex.quote(msgspec.json.encode(body).decode())
    return f"curl {url}{path} {key}-H 'Content-Type: application/json' -d {data}"


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
