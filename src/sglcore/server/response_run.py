"""Responses in the making: checked, run with or without a reader, and kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from sglcore.contracts.services import TurnEnd
from sglcore.errors import RequestError
from sglcore.server.chat import prepare_chat
from sglcore.server.errors import problem_of
from sglcore.server.face import Face
from sglcore.server.response_fields import ResponseFields, chat_body, in_our_words, read_fields
from sglcore.server.response_input import input_items, messages_of, prompt_messages
from sglcore.server.response_items import Event
from sglcore.server.response_store import ResponseStore
from sglcore.server.response_writer import ResponseWriter
from sglcore.server.turns import OneTurn

log = logging.getLogger("sglcore.server")

MAX_BACKGROUND = 256  # responses that one process works on while nobody waits for them
BUSY = ("queued", "in_progress")


class Record(msgspec.Struct):
    """What is kept of a response. messages: the conversation up to and with it, without instructions.

    tenant: whose it is; nobody else's requests find it.
    """

    response: dict[str, Any]
    items: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    tenant: str = ""


@dataclass
class Making:
    """A response that was checked and not yet begun."""

    asked: ResponseFields
    turn: OneTurn
    writer: ResponseWriter
    record: Record


class ResponseRuns:
    """Makes the responses of one process, and keeps them in `store`."""

    def __init__(self, face: Face, store: ResponseStore) -> None:
        self.store = store
        self._face = face
        self._background: dict[str, tuple[asyncio.Task[None], Making]] = {}
        store.stop = self._stop

    async def prepare(self, body: dict[str, Any]) -> Making:
        """Check everything and tokenize. Raises RequestError."""
        asked = read_fields(self._face, body, keeps=self.store.size > 0)
        asked.store &= self.store.size > 0
        items = input_items(asked.input)
        tenant = str(body.get("tenant") or "")
        messages = [*await self.conversation(asked, tenant), *messages_of(items)]
        prompt = prompt_messages(asked.instructions, messages)
        try:
            chat = await prepare_chat(self._face, chat_body(asked, body, prompt), "resp_")
        except RequestError as error:
            raise in_our_words(error) from None
        sampling = {"temperature": chat.ask.sampling.temperature, "top_p": chat.ask.sampling.top_p}
        writer = ResponseWriter(chat.ask.rid, self._face.model.name, asked, sampling)
        record = Record(response={}, items=items, messages=messages, tenant=tenant)
        return Making(asked, OneTurn(self._face, chat.ask, chat.parsing), writer, record)

    async def find(self, name: str, tenant: str) -> Record:
        """What is kept under `name`. Raises RequestError 404."""
        return self.read(name, await self.store.get(name), tenant)

    def read(self, name: str, record: bytes | None, tenant: str) -> Record:
        """A record from the store. Raises RequestError 404."""
        found = None if record is None else msgspec.json.decode(record, type=Record)
        if found is not None and found.tenant == tenant:
            return found
        off = "" if self.store.size else " This server keeps none (--response-store-size 0)."
        raise RequestError(
            f"There is no response {name[:100]!r} here: it was never made or kept, or is forgotten.{off}",
            code="response_not_found",
            status=404,
        )

    async def whole(self, making: Making) -> dict[str, Any]:
        """Run it to its end."""
        stream = making.asked.logprobs  # what belongs to text is told by what comes with it
        async with aclosing(self._run(making, stream=stream)) as deliveries:
            async for _ in deliveries:
                pass
        return making.writer.response()

    async def events(self, making: Making) -> AsyncGenerator[list[Event], None]:
        """Run it, telling its events. What the engine refuses at once is raised; later failures are events."""
        begun = False
        try:
            async with aclosing(self._run(making, stream=True)) as deliveries:
                async for events in deliveries:
                    begun = True
                    yield events
        except Exception as error:
            if not begun:
                raise
            told = making.writer.fail(problem_of(error))
            await self._keep(making)
            yield told

    async def start(self, making: Making) -> dict[str, Any]:
        """Begin to work on it without a reader; the response as it is now. Raises RequestError 429."""
        if len(self._background) >= MAX_BACKGROUND:
            raise RequestError(
                f"{MAX_BACKGROUND} background responses are in work here.", status=429, code="queue_full", retry_after=1
            )
        making.writer.queued()
        await self._keep(making)
        task = asyncio.get_running_loop().create_task(self._unwatched(making))
        name = making.writer.name
        self._background[name] = (task, making)
        task.add_done_callback(lambda _: self._background.pop(name, None))
        return making.writer.response()

    async def _unwatched(self, making: Making) -> None:
        writer = making.writer
        try:
            writer.begin()
            await self._keep(making)
            async with aclosing(self._run(making, stream=False)) as deliveries:
                async for _ in deliveries:
                    pass
        except Exception as error:
            writer.fail(problem_of(error))
            await self._keep(making)

    async def _run(self, making: Making, *, stream: bool) -> AsyncGenerator[list[Event], None]:
        writer, turn = making.writer, making.turn
        begun = False
        async with aclosing(turn.events(stream=stream)) as deliveries:
            async for events in deliveries:
                told = [] if begun else writer.begin()
                begun = True
                logprobs = self._logprobs(making)
                end = events[-1] if isinstance(events[-1], TurnEnd) else None
                told += writer.take(events[:-1] if end else events, logprobs)
                if end is not None:
                    told += writer.end(end)
                    await self._keep(making)
                yield told

    def _logprobs(self, making: Making) -> list[dict[str, Any]]:
        pending = making.turn.take_logprobs()
        shown: list[dict[str, Any]] = self._face.names.chat(pending)["content"] if making.asked.logprobs else []
        return shown

    async def _keep(self, making: Making) -> None:
        if not (making.asked.store and self.store.size):
            return
        writer, record = making.writer, making.record
        message = writer.message()
        kept = msgspec.structs.replace(
            record, response=writer.response(), messages=[*record.messages, *([message] if message else [])]
        )
        running = making.asked.background and writer.status in BUSY
        await self.store.put(writer.name, msgspec.json.encode(kept), running=running)

    async def conversation(self, asked: ResponseFields, tenant: str) -> list[dict[str, Any]]:
        """The messages that a response continues. Raises RequestError."""
        name = asked.previous_response_id
        if name is None:
            return []
        try:
            record = await self.find(name, tenant)
        except RequestError as error:
            code = "previous_response_not_found"
            raise RequestError(error.message, param="previous_response_id", code=code) from None
        if record.response["status"] in BUSY:
            raise RequestError(f"The response {name!r} is not finished yet.", param="previous_response_id")
        return record.messages

    async def _stop(self, name: str) -> None:
        """End what is worked on here under this name; its end is kept when this returns."""
        if name not in self._background:
            return
        task, making = self._background[name]
        task.cancel()
        await asyncio.wait([task])
        if making.writer.status in BUSY:
            making.writer.cancel()
        await self._keep(making)
