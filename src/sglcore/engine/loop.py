"""EngineLoop: messages in, steps, messages out. The same loop behind a socket and in a script."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from sglcore.engine.engine import Engine, Observers
from sglcore.engine.messages import Abort, Call, Failure, Outputs, Reply, Submit, ToEngine
from sglcore.errors import RequestError
from sglcore.isolation import Hooks
from sglcore.request import FinishReason, GenerateRequest, RequestOutput

PREPARE_EVERY = 32  # steps between two pieces of preparation while there is work


class EnginePort(Protocol):
    """The engine's end of a link."""

    def receive(self, *, block: bool, seconds: float | None = None) -> list[tuple[bytes, ToEngine]]:
        """What has arrived, with the sender; waits for at least one message (or the end) if `block`, for no longer
        than `seconds` if given."""
        ...

    def send(self, client: bytes, message: Any) -> None:
        """To one client; must not block for long."""
        ...

    @property
    def closed(self) -> bool:
        """Nobody will send any more."""
        ...


class EngineLoop:
    """Drives one engine for the clients of one port. Blocks when there is nothing to do."""

    def __init__(
        self,
        engine: Engine,
        port: EnginePort,
        hooks: Hooks,
        info: Mapping[str, Any],
        calls: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        """`calls`: further control calls, by name."""
        self.engine = engine
        self.port = port
        self.info = info
        self.turns = 0  # what the watchdog looks at, as at `waiting`: whether the loop sleeps for want of work
        self.waiting = False
        self.owner: dict[str, bytes] = {}  # rid -> client
        self._branches: dict[str, int] = {}  # rid -> branches not finished
        self._left: set[bytes] = set()  # clients that are gone
        self._observers = Observers(hooks, engine.stats)
        self._admit = hooks.admit_request if hooks.admit_request.get_hookimpls() else None
        self._calls: dict[str, Callable[..., Any]] = {
            "flush_cache": engine.flush_cache,
            "info": lambda: {**info, "plugin_errors": hooks.faults.rows(), "internal_states": [engine.stats()]},
            "metrics": lambda: {**engine.stats(), "plugin_errors": hooks.faults.rows()},
            "prefix_tree": engine.scheduler.ledger.tree.sketch,
            "check": engine.scheduler.ledger.check,
            "pause_generation": self._pause,
            "continue_generation": engine.scheduler.resume,
            "open_session": engine.open_session,
            "close_session": engine.close_session,
            "restore_session": engine.restore_session,
            "leave": self._leave,
            **calls,
        }

    def run(self) -> None:
        """Until the port closes. Whatever the engine raises ends it; the caller reports it."""
        while not self.port.closed:
            resting = not self.engine.has_work or self.engine.steps % PREPARE_EVERY == 0
            left = resting and self.engine.prepare()
            self.turn(block=not self.engine.has_work and not left)

    def turn(self, *, block: bool) -> None:
        """Handle what has arrived, then do one step if there is work."""
        self.waiting = block
        arrived = self.port.receive(block=block, seconds=self.engine.sleep if block else None)
        self.waiting = False
        self.turns += 1
        for client, message in arrived:
            self._handle(client, message)
        if self.engine.has_work:
            self._hand_out(self.engine.step())
            if not self.engine.has_work:
                self.engine.keeper.rest()

    def _handle(self, client: bytes, message: ToEngine) -> None:
        if isinstance(message, Submit):
            self._submit(client, message.request)
        elif isinstance(message, Abort):
            met = self._abort(client, message)
            # At once: a request that comes next under the same id must not be taken for the one that ended.
            self._hand_out(self.engine.scheduler.take_outbox())
            if message.call:
                self.port.send(client, Reply(message.call, met))
        else:
            reply = self._call(message)
            if message.name == "pause_generation":
                self._settle()
            self.port.send(client, reply)

    def _abort(self, client: bytes, message: Abort) -> int:
        scheduler = self.engine.scheduler
        mine = message.rid in scheduler.requests and self.owner.get(message.rid) == client
        if message.exact and not mine:
            if message.kept >= 0:  # it has ended meanwhile, with more than its client took
                scheduler.sessions.trim(message.rid, message.kept)
            return 0
        text = message.message or "Aborted."
        return scheduler.abort(message.rid, branch=message.branch, kept=message.kept, message=text)

    def _pause(self, mode: str = "abort") -> None:
        self.engine.pause(mode)

    def _settle(self) -> None:
        """A pause is answered when the steps in flight have landed: what is paused in place may then be looked at.

        What such a step raises ends the loop, as anywhere: it is no answer to the call.
        """
        while self.engine.scheduler.paused and self.engine.has_work:
            self._hand_out(self.engine.step())

    def _leave(self, client: str) -> int:
        """A client is gone: its requests are aborted, and what of it is still on its way here is ignored.

        Returns how many they were.
        """
        scheduler, identity = self.engine.scheduler, client.encode()
        self._left.add(identity)
        mine = [rid for rid, owner in self.owner.items() if owner == identity and rid in scheduler.requests]
        met = sum(scheduler.abort(rid) for rid in mine)
        self._hand_out(scheduler.take_outbox())
        return met

    def _submit(self, client: bytes, request: GenerateRequest) -> None:
        if client in self._left:
            return
        try:
            if self._admit is not None:
                self._admit(request=request)
            self.engine.add(request)
        except RequestError as error:
            self.port.send(client, Outputs([_refused(request, error)]))
            return
        self.owner[request.rid] = client
        self._branches[request.rid] = request.n - (len(request.resume.ended) if request.resume else 0)

    def _call(self, message: Call) -> Reply:
        handler = self._calls.get(message.name)
        try:
            if handler is None:
                raise RequestError(f"The engine knows no call {message.name!r}.", status=404)
            return Reply(message.call, handler(**message.arguments))
        except RequestError as error:
            return Reply(message.call, failure=Failure.of(error))
        except Exception as error:
            return Reply(message.call, failure=Failure(f"{type(error).__name__}: {error}", status=500))

    def _hand_out(self, outputs: list[RequestOutput]) -> None:
        self._deliver(outputs)
        self._observers.after_step(outputs)

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        """One message per client and step, with everything in it."""
        by_client: dict[bytes, list[RequestOutput]] = defaultdict(list)
        for out in outputs:
            client = self.owner.get(out.rid)
            if client is None:
                continue
            by_client[client].append(out)
            if out.finish is not None:
                self._branch_done(out.rid)
        for client, batch in by_client.items():
            self.port.send(client, Outputs(batch))

    def _branch_done(self, rid: str) -> None:
        self._branches[rid] -= 1
        if not self._branches[rid]:
            del self._branches[rid], self.owner[rid]


def _refused(request: GenerateRequest, error: RequestError) -> RequestOutput:
    finish = FinishReason(
        "error",
        message=str(error),
        status=error.status,
        code=error.code,
        param=error.param,
        retry_after=error.retry_after,
    )
    return RequestOutput(request.rid, 0, [], finish, epoch=request.epoch)
