"""One API worker: the application over the shared socket. `python -m sglcore.server.worker` is the child."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec
import uvloop
import zmq
import zmq.asyncio

from sglcore.cli.logs import set_up_logs
from sglcore.engine.child import Ready, Say, planned, run_child, wait_for_parent
from sglcore.server.app import build_app
from sglcore.server.conversation import Conversation
from sglcore.server.launch import build_context, drain
from sglcore.server.metrics import ServerMetrics
from sglcore.server.plugin_routes import plugin_routes
from sglcore.server.response_store import DistantResponses
from sglcore.server.run import build_server
from sglcore.server.settings import Live, Settings
from sglcore.server.vitals import Vitals
from sglcore.server.worker_client import Siblings, WorkerClient
from sglcore.server.worker_process import State, WorkerStart

COUNT_SECONDS = 1.0  # between two times that the parent is told what was counted


class Worker:
    """The application, and what the parent may tell it."""

    def __init__(self, start: WorkerStart) -> None:
        plugins = planned(start.plan, start.digest)
        self._start = start
        self._socket = _connected(start)
        self._talk = Conversation(self._send, self._handlers())
        self._client = WorkerClient(start.engine, start.seed, start.name, self._talk)
        self._siblings = Siblings(start.index, self._talk)
        context = build_context(start.config, Path(start.path), plugins, self._client)
        context.vitals = self._vitals = Vitals(self._client, self._siblings)
        context.peers = self._siblings
        context.settings = self._settings = Settings(
            Live.of(start.config), lambda fields: self._talk.ask("change_settings", fields=fields)
        )
        context.responses = self._responses = DistantResponses(start.config.response_store_size, self._talk)
        context.metrics = self._metrics = ServerMetrics(context.model.name, plugins.faults, start.config)
        self._server = build_server(build_app(context, plugin_routes(plugins, context)), start.config)
        self._crashed = context.face.observed.dumps.crashed
        self._server.on_term = self._drain
        self._began = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self) -> None:
        """Until the parent says so."""
        self._loop = asyncio.get_running_loop()
        self._client.attach()
        tasks = [self._loop.create_task(work) for work in (self._read(), self._count())]
        self._talk.tell("hello")
        await self._began.wait()
        await self._server.serve(sockets=[socket.socket(fileno=self._start.socket)])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
        self._socket.close()

    def parent_gone(self) -> None:
        """From the thread that watches the parent."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop)

    def _handlers(self) -> dict[str, Any]:
        """Looked up when they are called: most of what they need is built later."""
        return {
            "go": lambda **how: self._go(**how),
            "state": lambda state: self._state(msgspec.convert(state, State)),
            "settings": lambda now: self._settings.take(msgspec.convert(now, Live)),
            "suspend": lambda: self._suspend(),
            "resume": lambda address: self._client.report(address),
            "fail": lambda reason: self._client.fail(reason),
            "again": lambda rids: self._client.again(rids),
            "give_up": lambda rid: self._client.give_up(rid),
            "refuse": lambda rid: self._client.refuse(rid),
            "clear": lambda: self._client.clear(),
            "count": lambda: self._metrics.counts(),
            "stop_response": lambda name: self._responses.stop(name),
            "drain": lambda: self._drain(),
            "stop": lambda force: self._stop(force),
        }

    def _send(self, data: bytes) -> None:
        self._socket.send(data)

    def _go(self, address: str, suspended: bool, waiting: bool, draining: bool) -> None:
        self._client.go(address, suspended, waiting)
        self._vitals.draining = draining
        self._began.set()

    def _suspend(self) -> None:
        """The engine has died."""
        self._client.suspend()
        self._crashed()

    def _state(self, state: State) -> None:
        siblings = self._siblings
        siblings.last_beat, siblings.restarts = state.last_beat, state.engine_restarts
        siblings.resumed_in, siblings.worker_restarts = state.resumed_in, state.worker_restarts
        self._client.counted(state.replayed, state.poisoned)

    async def _drain(self) -> None:
        await drain(self._vitals, self._client, self._start.config.drain_timeout)

    def _stop(self, force: bool = False) -> None:
        self._server.should_exit = True
        self._server.force_exit |= force
        self._began.set()

    async def _read(self) -> None:
        while True:
            self._talk.take(await self._socket.recv())

    async def _count(self) -> None:
        while True:
            self._talk.tell("counted", counts=self._metrics.counts())
            await asyncio.sleep(COUNT_SECONDS)


def _connected(start: WorkerStart) -> zmq.asyncio.Socket:
    sock = zmq.asyncio.Context().socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.set_hwm(0)
    sock.setsockopt(zmq.IDENTITY, start.name.encode())
    sock.connect(start.parent)
    return sock


def _run(start: WorkerStart, say: Say) -> None:
    config = start.config
    set_up_logs(config.log_level, form=config.log_requests_format, http=config.log_level_http)
    worker = Worker(start)
    wait_for_parent(worker.parent_gone)
    say(Ready({}))
    uvloop.run(worker.serve())


if __name__ == "__main__":
    run_child(WorkerStart, _run)
