"""Admission: what a scheduler may take on, and the refusal, with numbers, of what it cannot."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sglcore.errors import RequestError
from sglcore.memory.ledger import KVLedger
from sglcore.memory.rows import RowTable
from sglcore.request import FinishReason, GenerateRequest
from sglcore.scheduler.priority import PriorityRules
from sglcore.scheduler.queue import OVERTAKES, WaitingQueue
from sglcore.scheduler.sessions import SessionLimits

RETRY_AT_MOST = 60  # seconds


@dataclass(frozen=True)
class Limits:
    """What the flags bound.

    chunk: prompt tokens computed per step. queued, queued_tokens: branches and prompt tokens that may wait, None for
    no bound. overtakes: later branches that may be seated before one that waits. timeout: seconds that a request
    without a timeout of its own may take, None for ever.
    """

    chunk: int
    vocab_size: int
    queued: int | None = None
    queued_tokens: int | None = None
    overtakes: int = OVERTAKES
    timeout: float | None = None
    priority: PriorityRules = field(default_factory=PriorityRules)
    sessions: SessionLimits = field(default_factory=SessionLimits)


class Admission:
    """Says no at the door; knows how fast the queue moves."""

    def __init__(self, limits: Limits, ledger: KVLedger, rows: RowTable, queue: WaitingQueue) -> None:
        self.limits = limits
        self.ledger = ledger
        self.rows = rows
        self.queue = queue
        self._seated: deque[float] = deque(maxlen=64)  # when the last branches got their seats

    def seated(self, now: float) -> None:
        """A branch got a seat."""
        self._seated.append(now)

    def refuse_impossible(self, asked: GenerateRequest) -> None:
        """Raises RequestError for what can never run, whatever the load."""
        tokens, new = len(asked.input_ids) // 4, max(asked.sampling.max_new_tokens, 1)  # every row samples once
        if not tokens:
            raise RequestError("The prompt is empty.", param="input_ids", remedy="Send at least one token.")
        ids = asked.token_ids()
        if ids.min() < 0 or ids.max() >= self.limits.vocab_size:
            raise RequestError(
                f"Token ids lie between {ids.min()} and {ids.max()}; the vocabulary has {self.limits.vocab_size}.",
                param="input_ids",
            )
        if tokens + new > self.rows.context:
            raise RequestError(
                f"{tokens} prompt tokens and {new} new ones exceed the context of {self.rows.context}.",
                param="max_new_tokens",
                code="context_length_exceeded",
            )
        if self.ledger.pages_for(tokens + new) > self.ledger.total:
            raise RequestError(
                f"{tokens} prompt tokens and {new} new ones need {self.ledger.pages_for(tokens + new)} pages; "
                f"the KV pool has {self.ledger.total}.",
                param="max_new_tokens",
                remedy="Ask for fewer tokens or start the server with a larger --max-total-tokens.",
            )

    def refusal(self, asked: GenerateRequest, now: float) -> RequestError | None:
        """The 429 for a request that finds the queue full; None while there is room."""
        queue, limits = self.queue, self.limits
        if asked.resume is not None:
            return None  # it was admitted by the engine before this one
        tokens = len(asked.input_ids) // 4
        if limits.queued is not None and len(queue) >= limits.queued + self.rows.free_seats:
            return self._full(f"{len(queue)} requests are waiting, the limit is {limits.queued}.", now)
        if limits.queued_tokens is not None and len(queue) and queue.tokens + tokens > limits.queued_tokens:
            return self._full(
                f"{queue.tokens} prompt tokens are waiting; with {tokens} more the limit of {limits.queued_tokens} "
                "is exceeded.",
                now,
            )
        return None

    def _full(self, message: str, now: float) -> RequestError:
        return RequestError(message, status=429, code="queue_full", retry_after=self._retry_after(now))

    def _retry_after(self, now: float) -> int:
        """Seconds until half the queue should be gone, by the pace of the last seats given."""
        if len(self._seated) < 2:
            return 1
        pace = len(self._seated) / max(now - self._seated[0], 1e-3)
        return max(1, min(RETRY_AT_MOST, round(len(self.queue) / 2 / pace)))


def displaced() -> FinishReason:
    """The end of a waiting request whose place one of higher priority took."""
    return FinishReason(
        "error", message="A request of higher priority took its place in the queue.", status=503, code="displaced"
    )
