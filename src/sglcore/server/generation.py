"""The trip that all dialects share: prepared requests to the engine, its outputs back as pieces of text."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, cast

from sglcore.contracts.routes import RouteContext
from sglcore.errors import EngineDead, RequestError
from sglcore.native.asks import for_engine
from sglcore.request import GenerateRequest, RequestOutput
from sglcore.server.metrics import ServerMetrics
from sglcore.server.watch import Observer, Watch
from sglcore.text.branch_text import BranchText, Piece

Pieces = AsyncGenerator[list[Piece], None]

MAX_BRANCHES = 4096  # of one HTTP request, over all its prompts


def new_rid(prefix: str = "") -> str:
    return prefix + uuid.uuid4().hex


class Generation:
    """Runs requests and owns what is known about those in flight in this process."""

    def __init__(self, context: RouteContext, metrics: ServerMetrics, observers: Sequence[Observer] = ()) -> None:
        self._engine = context.engine
        self._text = context.text
        self._interval = context.config.stream_interval
        self._metrics = metrics
        self._observers = observers
        self._in_flight: set[str] = set()

    def run(self, asks: Sequence[GenerateRequest], *, stream: bool) -> Pieces:
        """Pieces of all `asks` as they come; `Piece.prompt` is the index of its ask. Close it to abort what runs.

        Whoever takes slowly gets fewer and longer pieces. Raises RequestError where the engine refuses one (the others
        are aborted), EngineDead.
        """
        interval = self._interval if stream else 2**31
        if len(asks) == 1:
            return self._trip(0, asks[0], interval, [asks[0].rid])
        return self._several(asks, interval)

    async def _several(self, asks: Sequence[GenerateRequest], interval: int) -> Pieces:
        _check_total(asks)
        with self._claimed([ask.rid for ask in asks]):
            trips = [self._trip(i, ask, interval, []) for i, ask in enumerate(asks)]
            async with aclosing(merged(trips)) as pieces:
                async for some in pieces:
                    yield some

    async def collect(self, asks: Sequence[GenerateRequest]) -> list[list[Piece]]:
        """Run to the end: the one Piece of each branch, by [ask][branch]."""
        whole: list[list[Piece | None]] = [[None] * ask.n for ask in asks]
        async with aclosing(self.run(asks, stream=False)) as pieces:
            async for some in pieces:
                for piece in some:
                    whole[piece.prompt][piece.branch] = _joined(whole[piece.prompt][piece.branch], piece)
        return [[piece for piece in branches if piece is not None] for branches in whole]

    @contextmanager
    def _claimed(self, rids: list[str]) -> Iterator[None]:
        for position, rid in enumerate(rids):
            if rid in self._in_flight or rid in rids[:position]:
                raise RequestError(
                    f"`rid` {rid!r} is already in use.", param="rid", code="duplicate_rid", remedy="Send another."
                )
        self._in_flight.update(rids)
        try:
            yield
        finally:
            self._in_flight.difference_update(rids)

    async def _trip(self, index: int, ask: GenerateRequest, interval: int, claim: list[str]) -> Pieces:
        """One request. claim: ids that are taken meanwhile."""
        _check_total([ask])
        branches = [BranchText(index, b, self._text, ask.sampling, interval) for b in range(ask.n)]
        left = ask.n
        with self._claimed(claim):
            watch = Watch(ask, self._metrics, self._observers)
            try:
                async with _leaving(self._engine.generate(for_engine(ask))) as steps:
                    async for outputs in steps:
                        watch.step(outputs)
                        pieces = _advance(branches, outputs)
                        if pieces and (pieces[0].finish is not None or len(pieces) > 1):
                            ended = [piece for piece in pieces if piece.finish is not None]
                            watch.ended(ended)
                            left -= len(ended)
                            if ended:
                                self._end_cut(ask, branches, outputs)
                            if not left:
                                yield pieces
                                return
                        if pieces:
                            yield pieces
                raise EngineDead("It ended the request without a result.")
            except Exception as error:
                watch.failed(error)
                raise
            finally:
                watch.over()

    def _end_cut(self, ask: GenerateRequest, branches: list[BranchText], outputs: list[RequestOutput]) -> None:
        """Tell the engine of branches that a stop string has cut while others of the request go on."""
        if ask.n == 1 or all(branch.done for branch in branches):
            return  # leaving the engine's iterator ends the request
        for branch in {out.branch for out in outputs if out.finish is None and branches[out.branch].done}:
            if hasattr(self._engine, "end_branch"):
                self._engine.end_branch(ask.rid, branch)


def _check_total(asks: Sequence[GenerateRequest]) -> None:
    total = sum(ask.n for ask in asks)
    if total > MAX_BRANCHES:
        raise RequestError(
            f"{len(asks)} prompts with `n` make {total} answers, more than {MAX_BRANCHES}.",
            param="n",
            remedy="Send several requests.",
        )


def _advance(branches: list[BranchText], outputs: list[RequestOutput]) -> list[Piece]:
    """At most one piece a branch, however many outputs of it have come."""
    if len(outputs) == 1 and outputs[0].finish is None:  # the common case
        piece = branches[outputs[0].branch].advance(outputs[0])
        return [] if piece is None else [piece]
    pieces = []
    last = {output.branch: i for i, output in enumerate(outputs)}
    for i, output in enumerate(outputs):
        if output.finish is not None and output.finish.type == "error":
            raise _failure(output)
        piece = branches[output.branch].advance(output, more=last[output.branch] > i)
        if piece is not None:
            pieces.append(piece)
    return pieces


def _failure(output: RequestOutput) -> RequestError:
    finish = output.finish
    assert finish is not None
    message = finish.message or "The engine gave this request up."
    return RequestError(
        message, param=finish.param, code=finish.code, status=finish.status or 500, retry_after=finish.retry_after
    )


def _joined(before: Piece | None, piece: Piece) -> Piece:
    if before is None:
        return piece
    piece.text = before.text + piece.text
    piece.token_ids = before.token_ids + piece.token_ids
    piece.logprobs = before.logprobs + piece.logprobs
    if before.input_logprobs:
        piece.input_logprobs = before.input_logprobs + (piece.input_logprobs or [])
    piece.hidden_states = before.hidden_states + piece.hidden_states
    return piece


@asynccontextmanager
async def _leaving(steps: AsyncIterator[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """Close the engine's iterator on the way out, which aborts an unfinished request."""
    try:
        yield steps
    finally:
        if hasattr(steps, "aclose"):
            await cast("AsyncGenerator[Any, None]", steps).aclose()


async def merged(sources: list[Pieces]) -> Pieces:
    """All sources at once, in order of arrival; the first failure closes the others and is raised."""
    queue: asyncio.Queue[list[Piece] | Exception | None] = asyncio.Queue(maxsize=2 * len(sources))
    tasks = [asyncio.create_task(_pump(source, queue)) for source in sources]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(source: Pieces, queue: asyncio.Queue[list[Piece] | Exception | None]) -> None:
    try:
        async with aclosing(source):
            async for item in source:
                await queue.put(item)
        await queue.put(None)
    except Exception as error:
        await queue.put(error)
