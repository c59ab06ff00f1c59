"""`serve`: an engine process and the HTTP face in front of it, from start to stop."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from sglcore.config import EngineConfig
from sglcore.contracts.routes import ModelInfo
from sglcore.engine.client import ZmqClient
from sglcore.engine.model_files import (
    context_length,
    eos_token_ids,
    model_config,
    open_checkpoint,
    resolve_model,
    text_checkpoint,
)
from sglcore.engine.phases import Progress
from sglcore.engine.sampling import sampling_defaults
from sglcore.engine.supervisor import Supervisor
from sglcore.engine.workers import EngineProcess
from sglcore.native.engine_calls import CALLS
from sglcore.negotiation.decision import line
from sglcore.plugins import Plugins
from sglcore.server.app import build_app
from sglcore.server.context import ServerContext
from sglcore.server.cors import check_origins
from sglcore.server.observed import CrashWitness, check_observed
from sglcore.server.parse_offline import OfflineParsers
from sglcore.server.parsers import TemplateFacts, check_names, load_parsers, served_parser
from sglcore.server.plugin_routes import check_apis, plugin_routes
from sglcore.server.remote_media import check_domains
from sglcore.server.run import build_server, listen
from sglcore.server.settings import Settings, SettingsOwner
from sglcore.server.tls import check_tls, scheme
from sglcore.server.vitals import Vitals
from sglcore.server.workers import ApiWorkers
from sglcore.server_config import ServerConfig
from sglcore.text.service import Text

log = logging.getLogger("sglcore.server")


def serve(
    config: ServerConfig,
    plugins: Plugins,
    tell: Callable[[Progress], None],
    on_ready: Callable[[str, dict[str, Any]], None],
) -> None:
    """Run a server until it is told to stop. `tell` hears of the start's phases, `on_ready(url, info)` of its end.

    Raises ConfigError or PluginError if it cannot start. An engine that dies later is started again and its requests
    are replayed; when that has been tried too often, the server stays up and says that it is not ready.
    """
    check_names(config, plugins)
    check_apis(config, plugins)
    check_tls(config)
    check_observed(config)
    check_origins(config.cors_allow_origins)
    check_domains(config.allowed_media_domains)
    sock = listen(config)
    path = resolve_model(config.model_path, config, plugins)
    plan, for_engine, settings = plugins.plan(), engine_config(config), SettingsOwner(config)
    engine = Supervisor(lambda: EngineProcess(settings.engine_config(for_engine), path, plan, CALLS), config)
    workers = ApiWorkers(config, path, plan, engine, sock, settings) if config.api_workers > 1 else None
    try:  # the faces are built while the engine process imports torch
        run = _in_process(config, path, plugins, engine, sock, settings) if workers is None else workers.run
        if workers is not None:
            workers.wait_ready()
        info = engine.wait_ready(tell)
        log.info("%s", plugins)
        log.info("Plugins chosen: %s", line(info["decisions"]))
        on_ready(f"{scheme(config)}://{_host(config)}:{sock.getsockname()[1]}", info)
        run()
    finally:
        if workers is not None:
            workers.stop()
        engine.stop()
        sock.close()


def _in_process(
    config: ServerConfig,
    path: Path,
    plugins: Plugins,
    engine: Supervisor,
    sock: socket.socket,
    settings: SettingsOwner,
) -> Callable[[], None]:
    """The one API worker in this process; returns what serves until a signal, once the engine is ready."""
    client = ZmqClient(engine.address, config.random_seed)
    context = build_context(config, path, plugins, client)
    context.vitals = vitals = Vitals(client, engine)
    context.settings = Settings.alone(config, settings)
    app = build_app(context, plugin_routes(plugins, context))
    app.router.lifespan_context = _attached(client)
    server = build_server(app, config)
    server.on_term = lambda: drain(vitals, client, config.drain_timeout)

    def run() -> None:
        engine.watch(CrashWitness(client, context.face.observed.dumps.crashed))
        server.run(sockets=[sock])

    return run


def _attached(client: ZmqClient) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        client.attach()
        yield

    return lifespan


async def drain(vitals: Vitals, client: ZmqClient, timeout: float) -> None:
    """What SIGTERM does: no new requests, the open ones end or are told why they do not."""
    log.warning("Stopping: %d requests are open; they have %.0f s.", client.open, timeout)
    if left := await vitals.drain(lambda: client.open, timeout):
        log.warning("%d requests did not end in time.", left)
        client.drop("The server was stopped before this request ended.")


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
        sampling_defaults=sampling_defaults(config, checkpoint.generation_config),
        model_type=str(hf.get("model_type", "")),
    )
    facts = None if text is None else TemplateFacts(text.chat_template, text.special_tokens)
    parsers = load_parsers(config, plugins, facts)
    processors = plugins.registry("logits_processors")
    offline = OfflineParsers(parsers, None if facts is None else partial(served_parser, plugins=plugins, facts=facts))
    return ServerContext(
        *(config, client, text, model, parsers, plugins.faults, plugins.plan().digest),
        processors=processors,
        offline_parsers=offline,
    )


def _host(config: ServerConfig) -> str:
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    return f"[{host}]" if ":" in host else host
