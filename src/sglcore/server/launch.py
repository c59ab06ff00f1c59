"""`serve`: an engine process and the HTTP face in front of it, from start to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sglcore.config import EngineConfig, ServerConfig
from sglcore.contracts.routes import ModelInfo, RouteEntry
from sglcore.contracts.weights import Checkpoint
from sglcore.engine.link import ZmqClient
from sglcore.engine.model_files import (
    context_length,
    eos_token_ids,
    model_config,
    open_checkpoint,
    resolve_model,
    text_checkpoint,
)
from sglcore.engine.phases import Progress
from sglcore.engine.text import Text
from sglcore.engine.workers import EngineProcess
from sglcore.errors import EngineDead
from sglcore.plugins import Plugins
from sglcore.server.app import build_app
from sglcore.server.context import ServerContext
from sglcore.server.run import build_server, listen


def serve(
    config: ServerConfig,
    plugins: Plugins,
    tell: Callable[[Progress], None],
    on_ready: Callable[[str, dict[str, Any]], None],
) -> None:
    """Run a server until it is told to stop. `tell` hears of the start's phases, `on_ready(url, info)` of its end.

    Raises ConfigError or PluginError if it cannot start, EngineDead if the engine dies later.
    """
    sock = listen(config)
    path = resolve_model(config.model_path, config, plugins)
    engine = EngineProcess(engine_config(config), path, plugins.plan())
    deaths: list[str] = []
    try:
        client = ZmqClient(engine.address)
        context = build_context(config, path, plugins, client)  # while the engine process imports torch
        app = build_app(context, plugin_routes(plugins, context))
        info = engine.wait_ready(tell)
        server = build_server(app, config)

        def on_death(reason: str) -> None:
            deaths.append(reason)
            client.fail_from_thread(reason)
            server.should_exit = True

        engine.watch(on_death)
        on_ready(f"http://{_host(config)}:{sock.getsockname()[1]}", info)
        server.run(sockets=[sock])
        if deaths:
            raise EngineDead(deaths[0], remedy="Its log says more.")
    finally:
        deaths.append("stopped")
        engine.stop()
        sock.close()


def engine_config(config: ServerConfig) -> EngineConfig:
    """The engine's part of a server's config."""
    return EngineConfig(**{name: getattr(config, name) for name in EngineConfig.__struct_fields__})


def build_context(config: ServerConfig, path: Path, plugins: Plugins, client: ZmqClient) -> ServerContext:
    """What the HTTP face needs: text service and model facts, read without torch."""
    checkpoint = open_checkpoint(path, config.load_format, plugins)
    hf = model_config(checkpoint, config)
    text = None
    if not config.skip_tokenizer_init:
        text = Text(
            text_checkpoint(checkpoint, config, plugins).text_assets(),
            chat_template_path=config.chat_template,
            eos_token_ids=eos_token_ids(checkpoint, hf),
        )
    model = ModelInfo(
        name=config.served_model_name or config.model_path,
        path=config.model_path,
        architectures=tuple(hf.get("architectures") or ()),
        context_length=context_length(hf, config),
        vocab_size=int((hf.get("text_config") or hf).get("vocab_size", 0)),
        created=int(time.time()),
        sampling_defaults=sampling_defaults(checkpoint),
    )
    return ServerContext(config, client, text, model)


def sampling_defaults(checkpoint: Checkpoint) -> dict[str, Any]:
    """What generation_config.json asks for, in native names; nothing where it does not sample."""
    given = checkpoint.generation_config
    names = ("temperature", "top_p", "top_k", "min_p")
    if not given.get("do_sample", any(n in given for n in names)):
        return {}
    return {name: given[name] for name in names if given.get(name) is not None}


def plugin_routes(plugins: Plugins, context: ServerContext) -> list[RouteEntry]:
    """Routes of the dialect plugins in the plan."""
    registry = plugins.registry("routes")
    return [entry for name in sorted(registry) for entry in registry.factory(name)(context)]


def redacted(config: msgspec.Struct) -> dict[str, Any]:
    """A config fit to be shown: keys are masked."""
    values = msgspec.to_builtins(config)
    return {k: "***" if k.endswith("api_key") and v else v for k, v in values.items()}


def _host(config: ServerConfig) -> str:
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    return f"[{host}]" if ":" in host else host
