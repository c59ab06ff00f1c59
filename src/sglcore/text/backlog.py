"""Backlog: what the engine has delivered for one request and nobody has taken yet."""

from __future__ import annotations

import asyncio

from sglcore.request import RequestOutput, TokenLogprobs

LIMIT = 32  # outputs that wait as they came; above that those of a branch become one


class Backlog:
    """One request's way back to whoever waits for it. Belongs to one event loop; one task takes.

    Whoever is slow finds several outputs at once, and a very slow one finds them joined: what waits is bounded by the
    tokens of the answer, not by the number of steps. No token is lost or reordered.
    """

    __slots__ = ("_closed", "_limit", "_outputs", "_waiter")

    def __init__(self) -> None:
        self._outputs: list[RequestOutput] = []
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._limit = LIMIT

    def put(self, output: RequestOutput) -> None:
        """The next one. It is this object's from now on."""
        self._outputs.append(output)
        if len(self._outputs) > self._limit:
            self._outputs = joined(self._outputs)
            self._limit = max(LIMIT, 2 * len(self._outputs))
        self._wake()

    def close(self) -> None:
        """Nothing will follow: `take` gives an empty list once all is taken."""
        self._closed = True
        self._wake()

    async def take(self) -> list[RequestOutput]:
        """All that has come, at least one; an error comes alone."""
        if not self._outputs and not self._closed:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        outputs, self._outputs = self._outputs, []
        if len(outputs) > 1:  # what came before an error is passed on before it
            at = next((i for i, out in enumerate(outputs) if _failed(out)), 0)
            if at:
                outputs, self._outputs = outputs[:at], outputs[at:]
        return outputs

    def __len__(self) -> int:
        return len(self._outputs)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def joined(outputs: list[RequestOutput]) -> list[RequestOutput]:
    """The same with one output a branch, as far as they can be one: errors and hidden states stay as they are."""
    found: list[RequestOutput] = []
    last: dict[int, int] = {}  # branch -> index in `found`
    for out in outputs:
        at = last.get(out.branch)
        if at is not None and not _apart(found[at]) and not _apart(out):
            found[at] = _joined(found[at], out)
        else:
            last[out.branch] = len(found)
            found.append(out)
    return found


def _joined(first: RequestOutput, second: RequestOutput) -> RequestOutput:
    first.token_ids.extend(second.token_ids)  # in place: joining n outputs costs n
    return RequestOutput(
        first.rid,
        first.branch,
        first.token_ids,
        second.finish,
        second.prompt_tokens or first.prompt_tokens,
        max(first.cached_tokens, second.cached_tokens),
        _extended(first.logprobs, second.logprobs),
        _extended(first.input_logprobs, second.input_logprobs),
        second.retractions,
        second.queue_time or first.queue_time,
        second.epoch,
        second.cache_miss or first.cache_miss,
    )


def _extended(first: list[TokenLogprobs] | None, second: list[TokenLogprobs] | None) -> list[TokenLogprobs] | None:
    if not first or not second:
        return first or second
    first.extend(second)
    return first


def _apart(out: RequestOutput) -> bool:
    return out.hidden_states is not None or _failed(out)


def _failed(out: RequestOutput) -> bool:
    return out.finish is not None and out.finish.type == "error"
