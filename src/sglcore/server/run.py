"""Listening: an app on uvicorn, with uvloop and httptools."""

from __future__ import annotations

import socket

import uvicorn
from starlette.applications import Starlette

from sglcore.config import ServerConfig
from sglcore.errors import ConfigError

GRACE_SECONDS = 10  # open requests may go on this long after a stop was asked for
BACKLOG = 2048


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


def build_server(app: Starlette, config: ServerConfig) -> uvicorn.Server:
    """A server that is not yet running; set `should_exit` to stop it gracefully."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="auto",
            access_log=False,
            log_config=None,
            log_level="warning" if config.log_level == "info" else config.log_level,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            backlog=BACKLOG,
        )
    )


def serve_app(app: Starlette, config: ServerConfig, sock: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, then let open requests end (at most GRACE_SECONDS)."""
    build_server(app, config).run(sockets=[sock])
