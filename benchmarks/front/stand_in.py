"""The engine's side of front.py: takes requests at the real link and delivers one token to each, step by step."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import msgspec
import zmq
import zmq.asyncio

from sglcore.engine.messages import Abort, Call, Outputs, Reply, Submit, ToEngine
from sglcore.request import FinishReason, RequestOutput

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = FinishReason("length")


@dataclass
class Row:
    """One request: how far it is, and the step that gave its first token."""

    rid: str
    epoch: int
    prompt: int
    limit: int
    first: int = -1
    done: int = 0


class StandIn:
    """Paced at `rate` steps a second; rate 0: a step as soon as `ready` says that the last one has been read."""

    def __init__(self, address: str, letters: list[int]) -> None:
        self.rows: dict[str, Row] = {}
        self.times: list[float] = []  # of each step, just before it was sent
        self.aborts = 0
        self._letters = letters
        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(0)
        self._socket.bind(address)
        self._client = b""
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ToEngine)

    async def read(self) -> None:
        """Take requests in, for ever."""
        while True:
            self._client, data = await self._socket.recv_multipart()
            message = self._decoder.decode(data)
            if isinstance(message, Submit):
                asked = message.request
                row = Row(asked.rid, asked.epoch, len(asked.input_ids) // 4, asked.sampling.max_new_tokens)
                self.rows[asked.rid] = row
            elif isinstance(message, Abort):
                self.aborts += self.rows.pop(message.rid, None) is not None
            elif isinstance(message, Call):
                self._socket.send_multipart((self._client, self._encoder.encode(Reply(message.call, {}))))

    async def run(self, rate: float, ready: asyncio.Event | None = None, spread: int = 1) -> None:
        """Step until every row has its tokens. With `ready` the next step waits for it and clears it.

        spread: the rows begin over so many steps, as requests do not all come at the same moment.
        """
        began, step = time.monotonic(), 0
        late = {row.rid: i * spread // len(self.rows) for i, row in enumerate(self.rows.values())}
        while live := [row for row in self.rows.values() if row.done < row.limit]:
            if ready is not None:
                await ready.wait()
                ready.clear()
            else:
                wait = began + step / rate - time.monotonic()
                began -= min(wait, 0.0)  # where this process was late itself, it does not hurry: engines do not
                await asyncio.sleep(max(wait, 0.0))
            self._step([row for row in live if step >= late[row.rid]])
            step += 1

    def _step(self, live: list[Row]) -> None:
        outputs = []
        for row in live:
            if row.first < 0:
                row.first = len(self.times)
            token = self._letters[row.done % len(LETTERS)]
            row.done += 1
            finish = LENGTH if row.done == row.limit else None
            outputs.append(RequestOutput(row.rid, 0, [token], finish, row.prompt, 0, None, None, 0, 0.0, row.epoch, 0))
        data = self._encoder.encode(Outputs(outputs))
        self.times.append(time.monotonic())
        self._socket.send_multipart((self._client, data))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
