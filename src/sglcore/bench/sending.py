"""Sending requests: one with its times, and many at their hours."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext

import msgspec
import numpy as np

from sglcore.bench.backends import DONE, PREFIX, Backend, Reader, Wish
from sglcore.bench.datasets import Ask
from sglcore.bench.http_client import Failed, HttpClient
from sglcore.bench.metrics import Outcome

Clock = Callable[[], float]


async def send(client: HttpClient, backend: Backend, ask: Ask, wish: Wish, clock: Clock = time.perf_counter) -> Outcome:
    """One request to its end; what fails is told in the outcome."""
    outcome = Outcome(ask.prompt_len, start=clock())
    reader = backend.reader()
    body = msgspec.json.encode(backend.body(ask, wish))
    try:
        # closed at once where reading fails, and with it the connection: the server sees the client leave
        async with aclosing(client.stream(backend.path, body)) as pieces:  # type: ignore[type-var]
            if wish.stream:
                await read_events(pieces, reader, outcome, clock)
            else:
                reader.event(b"".join([piece async for piece in pieces]))
                outcome.latency = outcome.ttft = clock() - outcome.start
        # a server that does not count is taken at its word to have given what was asked
        outcome.output_len = reader.tokens or (ask.output_len if wish.ignore_eos else len(outcome.itl) + 1)
        outcome.text = reader.text()
    except (Failed, msgspec.DecodeError) as error:
        outcome.error = str(error) or type(error).__name__
        outcome.latency = clock() - outcome.start
    return outcome


async def read_events(pieces: AsyncIterator[bytes], reader: Reader, outcome: Outcome, clock: Clock) -> None:
    """Read server-sent events to the end, noting when tokens came. Raises Failed for a stream that ends early."""
    rest, last, ended = b"", 0.0, False
    async for piece in pieces:
        now = clock()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(PREFIX):
                continue
            data = line[len(PREFIX) :].strip()
            if data == DONE:
                ended = True
                continue
            new = reader.event(data)
            if new <= 0:
                continue
            if not last:
                outcome.ttft = now - outcome.start
                new -= 1  # the first token has no gap before it; others of its chunk came with it
                outcome.itl += [0.0] * new
            else:
                outcome.itl += [(now - last) / new] * new
            last = now
    outcome.latency = clock() - outcome.start
    if not ended:
        raise Failed("The stream ended before [DONE].")
    if not last:
        raise Failed("The answer has no token.")


def arrivals(count: int, rate: float, dice: np.random.Generator) -> list[float]:
    """Seconds from the start at which requests are sent: a Poisson process; at an infinite rate all at once."""
    if math.isinf(rate):
        return [0.0] * count
    return np.concatenate(([0.0], np.cumsum(dice.exponential(1 / rate, count - 1)))).tolist()


async def send_all(
    one: Callable[[Ask], Awaitable[Outcome]],
    asks: Sequence[Ask],
    hours: Sequence[float],
    most: int | None,
    told: Callable[[Outcome], None],
) -> list[Outcome]:
    """Send each at its hour, at most `most` at a time; the outcomes in order. `told` hears each as it ends.

    Hours are kept against the start, so that lateness does not add up.
    """
    gate = asyncio.Semaphore(most) if most else nullcontext()
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def at(ask: Ask) -> Outcome:
        async with gate:
            outcome = await one(ask)
        told(outcome)
        return outcome

    async with asyncio.TaskGroup() as group:
        tasks = []
        for ask, hour in zip(asks, hours, strict=True):
            wait = began + hour - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(group.create_task(at(ask)))
    return [task.result() for task in tasks]
