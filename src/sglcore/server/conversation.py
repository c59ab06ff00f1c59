"""Calls and answers between the parent and one API worker: the structs of the link, msgpack, in order, both ways."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sglcore.engine.messages import Call, Failure, Reply
from sglcore.errors import EngineDead, RequestError

log = logging.getLogger("sglcore.server")

ANSWER_SECONDS = 70.0  # longer than the engine's own
ENGINE_DEAD = "engine_dead"
Handlers = Mapping[str, Callable[..., Any]]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Call | Reply)


class Conversation:
    """One end. What the other end tells is handled in the order in which it was told.

    send: puts one message on the way, at once and without waiting. handlers: by name, plain functions or coroutine
    functions; the latter answer questions only, each in a task of its own.
    """

    def __init__(self, send: Callable[[bytes], None], handlers: Handlers) -> None:
        self._send = send
        self._handlers = handlers
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Reply]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, name: str, /, **arguments: Any) -> None:
        """Nobody waits for an answer."""
        self._send(_encoder.encode(Call(0, name, arguments)))

    async def ask(self, name: str, /, within: float = ANSWER_SECONDS, **arguments: Any) -> Any:
        """The other end's answer. Raises what its handler raised on purpose, EngineDead where there is none."""
        number = next(self._numbers)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._send(_encoder.encode(Call(number, name, arguments)))
            reply = await asyncio.wait_for(future, within)
        except TimeoutError:
            raise EngineDead(f"There was no answer to {name} for {within:.0f} s.") from None
        finally:
            del self._asked[number]
        if reply.failure is not None:
            raise EngineDead(reply.failure.message) if reply.failure.code == ENGINE_DEAD else reply.failure.error()
        return reply.result

    def take(self, data: bytes) -> None:
        """A message has arrived."""
        message: Call | Reply = _decoder.decode(data)
        if isinstance(message, Reply):
            future = self._asked.get(message.call)
            if future is not None and not future.done():
                future.set_result(message)
        elif message.call:
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._handlers[message.name](**message.arguments)

    def close(self) -> None:
        """The other end is gone: nobody waits for it any more."""
        for future in self._asked.values():
            if not future.done():
                future.set_exception(EngineDead("The process that was asked has ended."))

    async def _answer(self, asked: Call) -> None:
        try:
            result = self._handlers[asked.name](**asked.arguments)
            reply = Reply(asked.call, await result if inspect.isawaitable(result) else result)
        except RequestError as error:
            reply = Reply(asked.call, failure=Failure.of(error))
        except EngineDead as error:
            reply = Reply(asked.call, failure=Failure(str(error), code=ENGINE_DEAD))
        except Exception as error:
            log.exception("A question of another process could not be answered.")
            reply = Reply(asked.call, failure=Failure(f"{type(error).__name__}: {error}", status=500))
        self._send(_encoder.encode(reply))
