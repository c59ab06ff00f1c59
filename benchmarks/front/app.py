"""The server process of front.py: sglcore's HTTP face before a stand-in engine, or a bare Starlette app.

    python app.py sglcore ENGINE_ADDRESS CORE          python app.py bare "" CORE

Prints its port. The bare app answers with chunks that were made beforehand, as fast as they are taken.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from sglcore.engine.client import ZmqClient
from sglcore.engine.model_files import resolve_model
from sglcore.plugins import discover
from sglcore.server.app import build_app
from sglcore.server.launch import build_context
from sglcore.server.run import build_server, listen
from sglcore.server_config import ServerConfig


def bare_app() -> Starlette:
    """POST /: as many events as the body asks for, each as long as a chat chunk of one token."""

    async def stream(request: Request) -> StreamingResponse:
        asked = msgspec.json.decode(await request.body())
        chunk = b"data: " + bytes(asked["bytes"] - 8).replace(b"\0", b"x") + b"\n\n"

        async def events() -> AsyncIterator[bytes]:
            for _ in range(asked["chunks"]):
                yield chunk
                if asked["apart"]:
                    await asyncio.sleep(0)

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route("/", stream, methods=["POST"])])


def sglcore_app(config: ServerConfig, address: str) -> tuple[Starlette, ZmqClient]:
    """The whole face, with the demo model's tokenizer and chat template."""
    plugins = discover()
    client = ZmqClient(address)
    context = build_context(config, resolve_model(config.model_path, config, plugins), plugins, client)
    return build_app(context), client


async def serve(kind: str, address: str) -> None:
    """Until SIGTERM."""
    config = ServerConfig(model_path="demo", port=0, apis="openai", no_ui=True)
    sock: socket.socket = listen(config)
    if kind == "bare":
        server = build_server(bare_app(), config)
    else:
        app, client = sglcore_app(config, address)
        client.attach()
        server = build_server(app, config)
    print(sock.getsockname()[1], flush=True)
    await server.serve(sockets=[sock])


def main() -> None:
    """Run, pinned to one core; with SGLCORE_BENCH_PROFILE=FILE under cProfile."""
    kind, address, core = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    file = os.environ.get("SGLCORE_BENCH_PROFILE")
    if not file:
        uvloop.run(serve(kind, address))
        return
    profile = cProfile.Profile()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        profile.runcall(asyncio.run, serve(kind, address))
    profile.dump_stats(file)


if __name__ == "__main__":
    main()
