"""EngineThread: one thread that loads an engine, drives it and ends it; all others send it messages."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from sglcore.engine.messages import Abort, Call, Outputs, Reply, Submit, ToEngine
from sglcore.errors import EngineDead, RequestError
from sglcore.isolation import failure_text
from sglcore.offline.boxes import Box, Item, deliver
from sglcore.offline.start import Opened
from sglcore.request import GenerateRequest

if TYPE_CHECKING:
    from sglcore.engine.build import Built

log = logging.getLogger("sglcore.engine")

SHUT_DOWN = "The engine was shut down"


class ThreadPort:
    """The engine's end of a link within one process: any thread puts, the engine's thread receives and sends."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._inbox: SimpleQueue[list[ToEngine]] = SimpleQueue()
        self._take = take
        self.closed = False

    def put(self, messages: list[ToEngine]) -> None:
        """From any thread. Messages of one call are received together."""
        self._inbox.put(messages)

    def close(self) -> None:
        """The loop ends after its turn. From any thread; idempotent."""
        self.closed = True
        self._inbox.put([])

    def receive(self, *, block: bool, seconds: float | None = None) -> list[tuple[bytes, ToEngine]]:
        """See `EnginePort.receive`."""
        received: list[ToEngine] = []
        try:
            received += self._inbox.get(block, seconds)
            while True:
                received += self._inbox.get_nowait()
        except Empty:
            return [(b"", message) for message in received]

    def send(self, client: bytes, message: Any) -> None:
        """See `EnginePort.send`."""
        self._take(message)


class EngineThread:
    """Starts the engine of `opened` and returns when it is ready. Raises what kept it from starting.

    Every open request has a box; when the engine ends, however it does, each box hears of it.
    """

    def __init__(self, opened: Opened, start: Callable[[], Built]) -> None:
        self._opened = opened
        self._port = ThreadPort(self._take)
        self._lock = threading.Lock()  # over what follows; never held while anything waits
        self._open: dict[str, tuple[int, Box]] = {}  # rid -> epoch of its submission, who waits
        self._replies: dict[int, Future[Any]] = {}
        self._end: EngineDead | None = None
        self._numbers = itertools.count(1)
        self._process = os.getpid()
        ready: Future[Built] = Future()
        self._thread = threading.Thread(target=self._run, args=(start, ready), name="sglcore-engine", daemon=True)
        self._thread.start()
        try:
            self.built = ready.result()
        except BaseException:  # an interrupt too: the thread then ends when it has loaded
            self._port.close()
            raise

    # -- from any thread --

    def check(self) -> None:
        """Raises EngineDead where nothing can be asked. In a forked child even the lock may be held by nobody."""
        if os.getpid() != self._process:
            raise EngineDead(
                f"This engine runs in process {self._process}, and this is a fork of it ({os.getpid()}).",
                remedy="Make the Engine in the process that uses it.",
            )
        self._check_end()

    def submit(self, asks: Iterable[GenerateRequest], box: Box) -> None:
        """Hand requests over, together. Raises RequestError for an id in use, EngineDead."""
        asks = list(asks)
        self.check()
        with self._lock:
            self._check_end()
            rids = [ask.rid for ask in asks]
            for position, rid in enumerate(rids):
                if rid in self._open or rid in rids[:position]:
                    raise RequestError(
                        f"`rid` {rid!r} is already in use.", param="rid", code="duplicate_rid", remedy="Send another."
                    )
            sent: list[ToEngine] = []
            for ask in asks:
                ask = msgspec.structs.replace(ask, epoch=next(self._numbers))
                self._open[ask.rid] = (ask.epoch, box)
                sent.append(Submit(ask))
            self._port.put(sent)

    def tell(self, aborts: list[Abort]) -> None:
        """Ends of requests and branches that nobody waits for any more; no answer is wanted."""
        if aborts:
            self._port.put([*aborts])

    def leave(self, box: Box, rids: Iterable[str], aborts: list[Abort]) -> None:
        """Nobody takes from `box` any more. The ids of its requests are free again; `aborts` end those that run."""
        with self._lock:  # in one go: who takes such an id next must not meet the abort
            own = {rid for rid in rids if rid in self._open and self._open[rid][1] is box}
            for rid in own:
                del self._open[rid]
            self.tell([abort for abort in aborts if abort.rid in own])

    def ask(self, message: Callable[[int], ToEngine]) -> Any:
        """Send a Call or Abort with its number and wait for the reply. Raises RequestError, EngineDead."""
        self.check()
        number = next(self._numbers)
        future: Future[Any] = Future()
        with self._lock:
            self._check_end()
            self._replies[number] = future
            self._port.put([message(number)])
        return future.result()

    def call(self, name: str, **arguments: Any) -> Any:
        """A control call; see `contracts.EngineClient.call`."""
        return self.ask(lambda number: Call(number, name, arguments))

    def stop(self) -> None:
        """End open requests with EngineDead, free the engine and its memory, wait for it. Idempotent."""
        if os.getpid() != self._process:
            return  # in a forked child: the thread lives in the parent alone
        self._port.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self.__dict__.pop("built", None) is not None:
            gc.collect()  # an engine knows itself: without this, its weights and pages would stay for a while

    @property
    def alive(self) -> bool:
        """Whether requests may be sent."""
        return self._end is None and os.getpid() == self._process

    # -- in the engine's thread --

    def _run(self, start: Callable[[], Built], ready: Future[Built]) -> None:
        try:
            built = start()
        except BaseException as error:
            self._finish(EngineDead("The engine did not start."))
            ready.set_exception(error)
            return
        ready.set_result(built)
        plugins = self._opened.plugins
        end = EngineDead(f"{SHUT_DOWN}.", remedy="Make another.")
        try:
            from sglcore.engine.loop import EngineLoop  # with torch, which importing this module does not bring in

            EngineLoop(built.engine, self._port, plugins.hooks, built.info).run()
        except BaseException as error:
            log.debug("The engine failed", exc_info=True)
            end = EngineDead(failure_text(error, plugins.entries), remedy="Shut this Engine down and make another.")
        self._finish(end)
        try:
            self._opened.stop(built)
        except Exception:
            log.exception("The engine could not be closed")

    def _finish(self, end: EngineDead) -> None:
        """Nothing is taken any more, and everybody who waits is told."""
        with self._lock:
            self._end = end
            boxes = {id(box): box for _, box in self._open.values()}
            replies, self._replies = list(self._replies.values()), {}
        deliver((box, end) for box in boxes.values())
        for future in replies:
            future.set_exception(EngineDead(end.message, remedy=end.remedy))

    def _take(self, message: Outputs | Reply) -> None:
        if isinstance(message, Outputs):
            self._hand_out(message)
            return
        with self._lock:
            future = self._replies.pop(message.call, None)
        if future is None:
            return
        if message.failure is not None:
            future.set_exception(message.failure.error())
        else:
            future.set_result(message.result)

    def _hand_out(self, message: Outputs) -> None:
        items: dict[int, tuple[Box, Item]] = {}
        for out in message.outputs:
            epoch, box = self._open.get(out.rid, (0, None))
            if box is None or epoch != out.epoch:
                continue  # nobody waits, or for another request that took its id
            item = items.setdefault(id(box), (box, []))[1]
            item.append(out)  # type: ignore[union-attr]
        for box in deliver(items.values()):
            self._forget(box)

    def _forget(self, lost: Box) -> None:
        """The event loop of a call is gone, and with it everybody who could have left it."""
        with self._lock:
            rids = [rid for rid, (_, box) in self._open.items() if box is lost]
        self.leave(lost, rids, [Abort(rid, exact=True) for rid in rids])

    def _check_end(self) -> None:
        if self._end is not None:
            raise EngineDead(self._end.message, remedy=self._end.remedy)
