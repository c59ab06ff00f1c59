"""Listening: an app on uvicorn, with uvloop and httptools."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from sglcore.errors import ConfigError
from sglcore.server.head_bounds import BoundedProtocol
from sglcore.server.tls import tls_settings
from sglcore.server_config import ServerConfig

GRACE_SECONDS = 10  # open requests may go on this long after a stop was asked for
BACKLOG = 2048
GC_THRESHOLD = (20_000, 10, 10)


def listen(config: ServerConfig) -> socket.socket:
    """A listening socket on host:port (0 takes a free port). Raises ConfigError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((config.host, config.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"Cannot listen on {config.host}:{config.port}: {error.strerror or error}.",
            remedy="Choose another with --host and --port.",
        ) from None
    return sock


def settle_memory() -> None:
    """What was built to serve stays: the garbage collector need not walk it again and again.

    Streams make many short-lived objects and hardly a cycle, so it also looks for those less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


class DrainingServer(uvicorn.Server):
    """On SIGTERM it calls `on_term` once, in its loop, and goes on serving until that has ended; then it stops.

    A second SIGTERM, or SIGINT, stops it at once.
    """

    on_term: Callable[[], Awaitable[None]] | None = None
    _draining = False
    _drain: asyncio.Task[None] | None = None  # held, or it might be collected

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn calls before the first request."""
        settle_memory()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What uvicorn calls on a signal, in its loop's thread."""
        if sig != signal.SIGTERM or self.on_term is None or self._draining:
            super().handle_exit(sig, frame)
            return
        # a signal may come while the loop sleeps: this wakes it
        loop, self._draining = asyncio.get_running_loop(), True
        loop.call_soon_threadsafe(self._begin, self.on_term)

    def _begin(self, on_term: Callable[[], Awaitable[None]]) -> None:
        self._drain = asyncio.get_running_loop().create_task(self._drained(on_term))

    async def _drained(self, on_term: Callable[[], Awaitable[None]]) -> None:
        try:
            await on_term()
        finally:
            self.should_exit = True


def build_server(app: Starlette, config: ServerConfig) -> DrainingServer:
    """A server that is not yet running; set `should_exit` to stop it gracefully."""
    return DrainingServer(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=BoundedProtocol,
            ws="none",
            lifespan="auto",
            access_log=False,
            log_config=None,
            log_level="warning" if config.log_level == "info" else config.log_level,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            backlog=BACKLOG,
            **tls_settings(config),
        )
    )


def serve_app(app: Starlette, config: ServerConfig, sock: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, then let open requests end (at most GRACE_SECONDS)."""
    build_server(app, config).run(sockets=[sock])
