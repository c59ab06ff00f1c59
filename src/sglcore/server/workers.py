"""ApiWorkers: the parent of several API processes. It owns what no single one of them may own.

That is the engine process and its restarts, the decision who runs again, the journal of calls, and the sums of what the
workers have counted. Requests do not pass through here: each worker has its own socket to the engine.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop
import zmq
import zmq.asyncio

from sglcore.engine.client import ZmqClient
from sglcore.engine.recovery import Opened
from sglcore.engine.supervisor import Supervisor
from sglcore.errors import SglcoreError
from sglcore.plugins import PluginPlan
from sglcore.request import GenerateRequest, SamplingParams, SessionParams
from sglcore.server.conversation import Conversation
from sglcore.server.counts import Counts, lasting, summed
from sglcore.server.response_store import SharedResponses
from sglcore.server.run import GRACE_SECONDS
from sglcore.server.settings import Live, SettingsOwner
from sglcore.server.verdicts import Verdicts
from sglcore.server.worker_process import State, WorkerProcess, WorkerStart
from sglcore.server_config import ServerConfig

log = logging.getLogger("sglcore.server")

STATE_SECONDS = 1.0
SETTINGS_SECONDS = 5.0
COUNT_SECONDS = 1.5  # a worker that does not say in this time what it has counted stands with what it last said
REPORT_SECONDS = 20.0  # a worker that does not report to a new engine in this time is ended
STOP_SECONDS = GRACE_SECONDS + 5.0


class ApiWorkers:
    """Starts the workers, serves until a signal, and stops them. Implements `supervisor.EngineUser`."""

    def __init__(
        self,
        config: ServerConfig,
        path: Path,
        plan: PluginPlan,
        engine: Supervisor,
        sock: socket.socket,
        settings: SettingsOwner,
    ) -> None:
        self._folder = tempfile.mkdtemp(prefix="sglcore-")  # mode 0700: only this user may connect
        self._config, self._engine, self._settings = config, engine, settings
        settings.tell = self._tell_settings
        self._address = engine.address
        self._start = WorkerStart(
            *(config, str(path), plan, plan.digest, 0, "", 0, self._address, f"ipc://{self._folder}/parent"),
            socket=sock.fileno(),
        )
        self._client = ZmqClient(self._address, config.random_seed)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(0)
        self._socket.bind(self._start.parent)
        self._verdicts = Verdicts(self._attached)
        self._workers: dict[str, WorkerProcess] = {}
        self._responses = SharedResponses(config.response_store_size, self._talk_with)
        self._gone = Counts()  # of workers that have died
        self._deaths: deque[float] = deque()  # of workers, monotonic
        self._restarts = self._engine_deaths = 0
        self._suspended = self._draining = self._stopping = self._interrupted = False
        self._dead: str | None = None
        self._failure: SglcoreError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over = asyncio.Event()
        for index in range(config.api_workers):
            self._spawn(index)

    def wait_ready(self) -> None:
        """Until all have built their applications. Raises ConfigError or PluginError if one cannot."""
        for worker in self._workers.values():
            worker.wait_ready()

    def run(self) -> None:
        """Serve until SIGTERM (drain first) or SIGINT. Raises EngineDead where no worker can be kept alive."""
        uvloop.run(self._run())
        if self._failure is not None:
            raise self._failure
        if self._interrupted:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """End all processes, if need be by force. Idempotent."""
        self._stopping = True
        for worker in self._workers.values():
            worker.stop()
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- the engine's death, told by the supervisor --

    def from_thread(self, call: Callable[..., Any], *arguments: Any) -> None:
        """See `supervisor.EngineUser`."""
        self._client.from_thread(call, *arguments)

    def suspend(self) -> None:
        """See `supervisor.EngineUser`."""
        self._suspended = True
        self._engine_deaths += 1
        self._verdicts.hold()
        self._client.suspend()
        self._tell_all("suspend")

    def resume(self, address: str, in_flight: set[bytes]) -> None:
        """See `supervisor.EngineUser`."""
        self._client.resume(address, set())  # tells the journal
        self._address = address
        self._task(self._resume(address, in_flight))

    def fail(self, reason: str) -> None:
        """See `supervisor.EngineUser`."""
        self._dead = reason
        self._client.fail(reason)
        self._tell_all("fail", reason=reason)

    async def _resume(self, address: str, in_flight: set[bytes]) -> None:
        death = self._engine_deaths
        try:
            await self._client.call("metrics")  # answered: the engine has taken in what the journal told it
        except SglcoreError as error:
            log.warning("The new engine did not answer: %s", error)
            return  # it has died too: there will be another
        if death != self._engine_deaths:
            return
        self._suspended = False
        self._verdicts.collect(address, in_flight)
        await asyncio.sleep(REPORT_SECONDS)
        for worker in self._verdicts.missing() if death == self._engine_deaths else ():
            log.error("API worker %d does not answer; it is ended.", worker.index)
            worker.kill()

    # -- workers --

    def _attached(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.values() if worker.attached]

    def _talk_with(self, name: str) -> Conversation | None:
        worker = self._workers.get(name)
        return worker.talk if worker is not None and worker.attached else None

    def _tell_all(self, name: str, /, **arguments: Any) -> None:
        for worker in self._attached():
            worker.tell(name, **arguments)

    def _spawn(self, index: int) -> WorkerProcess:
        name = f"api-{index}-{self._restarts}"
        start = msgspec.structs.replace(
            self._start,
            index=index,
            name=name,
            seed=self._config.random_seed + (self._restarts * 64 + index + 1) * 1_000_003,
            engine=self._address,
        )
        worker: WorkerProcess
        handlers: dict[str, Callable[..., Any]] = {
            "hello": lambda: self._hello(worker),
            "report": lambda opened: self._verdicts.report(worker, msgspec.convert(opened, list[Opened])),
            "hear": lambda what, rid: self._verdicts.hear(what, worker, rid),
            "said": self._said,
            "counted": functools.partial(self._counted, name),
            "call": functools.partial(self._call, name),
            "others": functools.partial(self._others, name),
            "responses": functools.partial(self._responses.asked, name),
            "change_settings": self._settings.change,
        }
        identity = name.encode()
        worker = WorkerProcess(start, lambda data: self._send(identity, data), handlers)
        self._workers[name] = worker
        return worker

    def _send(self, identity: bytes, data: bytes) -> None:
        self._socket.send_multipart((identity, data))

    def _hello(self, worker: WorkerProcess) -> None:
        """It is there: whatever was told to all before is told to it now."""
        worker.attached, worker.opened, worker.heard = True, [], time.monotonic()
        self._tell_state(worker)
        if self._dead is not None:
            worker.tell("fail", reason=self._dead)
        worker.tell("settings", now=self._settings.now)
        worker.tell(
            "go",
            address=self._address,
            suspended=self._suspended,
            waiting=self._verdicts.told,
            draining=self._draining,
        )

    def _died(self, worker: WorkerProcess, reason: str) -> None:
        """In the loop: a worker's process has ended."""
        del self._workers[worker.name]
        was_there, worker.attached = worker.attached, False
        worker.talk.close()
        self._gone = summed([self._gone, lasting(worker.counts)])
        self._verdicts.left(worker)
        self._responses.keeper.runner_gone(worker.name)
        if self._stopping or (self._draining and not self._workers):
            if not self._workers:
                self._over.set()
            return
        log.error("API worker %d died: %s", worker.index, reason)
        if was_there:
            self._task(self._leave(worker))
        if not self._draining:
            self._task(self._revive(worker.index))

    async def _leave(self, worker: WorkerProcess) -> None:
        """The engine is told of a worker's end; one that is being restarted has none of its requests."""
        try:
            met = await self._client.call("leave", client=worker.name)
            log.warning("Aborted %s requests of API worker %d.", met, worker.index)
        except SglcoreError as error:
            log.info("The engine was not told of API worker %d: %s", worker.index, error)

    async def _revive(self, index: int) -> None:
        while not self._stopping and self._may_restart():
            worker = self._spawn(index)
            try:
                await asyncio.to_thread(worker.wait_ready)
                self._watch(worker)
                return
            except SglcoreError as error:
                self._workers.pop(worker.name, None)
                await asyncio.to_thread(worker.stop)
                log.error("API worker %d could not be restarted: %s", index, error)
        if not self._stopping:
            log.error("API worker %d is left dead.", index)
            if not self._workers:
                self._failure = SglcoreError("No API worker is left, and none may be started again.")
                self._over.set()

    def _may_restart(self) -> bool:
        now = time.monotonic()
        while self._deaths and self._deaths[0] < now - self._config.engine_restart_window:
            self._deaths.popleft()
        if len(self._deaths) >= self._config.max_engine_restarts:
            return False
        self._deaths.append(now)
        self._restarts += 1
        return True

    # -- what workers ask and tell --

    async def _call(self, asker: str, name: str, arguments: dict[str, Any]) -> Any:
        """A control call, made here so that the journal knows of it whoever was asked."""
        result = await self._client.call(name, **arguments)
        if asker in self._workers:
            self._tell_state(self._workers[asker])
        return result

    def _said(self, request: dict[str, Any], tokens: list[int], since: float, submitted: bool) -> None:
        """A request of a session has ended in a worker."""
        session = msgspec.convert(request["session"], SessionParams)
        asked = GenerateRequest(
            rid=request["rid"], input_ids=request["input_ids"], sampling=SamplingParams(), session=session
        )
        self._client.remember(asked, tokens, since, submitted)

    def _counted(self, name: str, counts: dict[str, Any]) -> None:
        worker = self._workers[name]
        worker.counts, worker.heard = msgspec.convert(counts, Counts), time.monotonic()

    async def _others(self, asker: str) -> list[Counts]:
        """What all but `asker` have counted, as of now."""
        others = [worker for worker in self._attached() if worker.name != asker]
        await asyncio.gather(*(self._ask_counts(worker) for worker in others))
        return [self._gone, *(worker.counts for worker in others)]

    async def _ask_counts(self, worker: WorkerProcess) -> None:
        try:
            counts = await worker.talk.ask("count", within=COUNT_SECONDS)
            worker.counts = msgspec.convert(counts, Counts)
        except SglcoreError:
            pass  # what it last said must do

    async def _tell_settings(self, now: Live) -> None:
        """Until all have them; one that is stuck is ended by the watchdog, one that starts is told first."""
        asked = [worker.talk.ask("settings", within=SETTINGS_SECONDS, now=now) for worker in self._attached()]
        await asyncio.gather(*asked, return_exceptions=True)

    def _tell_state(self, worker: WorkerProcess) -> None:
        recovery, engine = self._verdicts.recovery, self._engine
        state = State(
            *(engine.last_beat, engine.restarts, engine.resumed_in, recovery.replayed, recovery.poisoned),
            worker_restarts=self._restarts,
        )
        worker.tell("state", state=state)

    # -- the loop --

    async def _run(self) -> None:
        self._client.attach()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_signal, True)
        loop.add_signal_handler(signal.SIGINT, self._on_signal, False)
        for worker in list(self._workers.values()):
            self._watch(worker)
        self._engine.watch(self)
        self._task(self._read())
        self._task(self._beat())
        await self._over.wait()
        self._stopping = True
        for worker in self._workers.values():
            if not worker.ready:
                worker.kill()  # so that no thread waits for it
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def _watch(self, worker: WorkerProcess) -> None:
        worker.watch(lambda reason: self.from_thread(self._died, worker, reason))

    async def _read(self) -> None:
        while True:
            identity, data = await self._socket.recv_multipart()
            worker = self._workers.get(identity.decode())
            if worker is None:
                continue  # it has died meanwhile
            try:
                worker.talk.take(data)
            except Exception:
                log.exception("A message of API worker %d could not be handled.", worker.index)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(STATE_SECONDS)
            for worker in self._attached():
                self._tell_state(worker)
                if time.monotonic() - worker.heard > self._config.watchdog_timeout:
                    log.error("API worker %d has given no sign of life; it is killed.", worker.index)
                    worker.kill()

    def _on_signal(self, drain: bool) -> None:
        """SIGTERM lets open requests end; SIGINT, or a second signal, stops soon; one more stops at once."""
        if drain and not self._draining and not self._stopping:
            self._draining = True
            self._task(self._drain())
            return
        self._interrupted |= not drain
        self._end(force=self._stopping)

    async def _drain(self) -> None:
        within = self._config.drain_timeout + GRACE_SECONDS
        asked = [worker.talk.ask("drain", within=within) for worker in self._attached()]
        await asyncio.gather(*asked, return_exceptions=True)
        self._end()

    def _end(self, *, force: bool = False) -> None:
        self._stopping = True
        self._tell_all("stop", force=force)
        if not self._workers:
            self._over.set()
        asyncio.get_running_loop().call_later(STOP_SECONDS, self._over.set)

    def _task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
