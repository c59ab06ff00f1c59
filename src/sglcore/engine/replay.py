"""Replay: what a client's side remembers of its requests, and in which order they are run again after a death.

An engine knows nothing that cannot be told again: the request as it was asked, and the tokens delivered since. The
requests that were in the steps in flight when it died are suspects. They run first and apart from the others; if the
engine dies again, in halves; and one that kills it alone is given up, so that the rest can go on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from sglcore.request import GenerateRequest, RequestOutput, Resume, pack_ids

# Deliveries after a replay that clear a suspect: it has got past the step that the engine died in.
CLEARED = 3


@dataclass(slots=True)
class Record:
    """One request in flight, as far as its client has been told. `epoch` is that of its latest submission, `since`
    the time of its first."""

    request: GenerateRequest
    epoch: int
    tokens: list[list[int]] = field(default_factory=list)  # by branch, delivered
    ended: set[int] = field(default_factory=set)  # branches
    input_logprobs: list[int] = field(default_factory=list)  # by branch, delivered
    hidden_states: list[int] = field(default_factory=list)  # by branch, positions delivered
    deliveries: int = 0  # since the latest submission
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = [[] for _ in range(self.request.n)]
        self.input_logprobs = [0] * self.request.n
        self.hidden_states = [0] * self.request.n

    def take(self, out: RequestOutput) -> None:
        """Remember what is about to be passed on."""
        self.tokens[out.branch].extend(out.token_ids)
        self.deliveries += 1
        if out.input_logprobs:
            self.input_logprobs[out.branch] += len(out.input_logprobs)
        if out.hidden_states is not None:
            self.hidden_states[out.branch] += len(out.hidden_states.data) // (4 * out.hidden_states.size)
        if out.finish is not None:
            self.ended.add(out.branch)

    def again(self, epoch: int) -> GenerateRequest:
        """The request to submit to a new engine: it goes on where the client stands."""
        self.epoch = epoch
        self.deliveries = 0
        resume = Resume(
            tokens=tuple(pack_ids(np.array(branch, np.int32)) for branch in self.tokens),
            ended=tuple(sorted(self.ended)),
            input_logprobs=tuple(self.input_logprobs),
            hidden_states=tuple(self.hidden_states),
            since=self.since,
        )
        return msgspec.structs.replace(self.request, epoch=epoch, resume=resume)


class Quarantine:
    """Decides who may run after a death. Pure bookkeeping over request ids; the caller submits and listens.

    died(suspects, open) -> who must be given up
    release()            -> who may be submitted now; call after `died`, and whenever somebody was `cleared`
    """

    def __init__(self) -> None:
        self._groups: deque[list[str]] = deque()  # waiting to run, one after another
        self._rest: list[str] = []  # everybody else
        self._running: set[str] = set()  # of the latest group, not cleared yet
        self._deaths: Counter[str] = Counter()

    @property
    def active(self) -> bool:
        """Whether new requests have to wait."""
        return bool(self._groups or self._running or self._rest)

    def died(self, in_flight: Iterable[str], open_: Iterable[str], left: int = 0) -> list[str]:
        """The engine died while computing `in_flight`, and `left` more whose clients have left since; `open_` are all
        unfinished, in order. Returns the poison."""
        order = list(open_)
        flying = set(in_flight)
        everyone = [rid for rid in order if rid in flying]
        # Those that have been cleared since the last death are less suspect than those that have not.
        suspects = [rid for rid in everyone if rid in self._running]
        again = bool(suspects)
        suspects = suspects or everyone
        self._deaths.update(suspects)
        groups = self._parts(suspects, everyone, left) if again else [suspects]
        poison = [] if groups else suspects
        waiting = [[rid for rid in group if rid in order] for group in self._groups]
        self._groups = deque(group for group in [*groups, *waiting] if group)
        kept = {rid for group in self._groups for rid in group} | set(poison)
        self._rest = [rid for rid in order if rid not in kept]
        self._running = set()
        return poison

    def _parts(self, suspects: list[str], everyone: list[str], left: int) -> list[list[str]]:
        """Who is examined next, after one more death while `suspects` were; nothing where the one is found."""
        if len(suspects) > 1:
            return _halves(suspects)
        company = [rid for rid in everyone if rid not in suspects]
        if company or left or self._deaths[suspects[0]] < 2:
            return [suspects, company]  # nobody is given up in company: who was cleared may still be the poison
        return []

    def release(self) -> list[str]:
        """Who may run now beside those that run already: the next group, or everybody once all are cleared."""
        if self._running:
            return []
        if self._groups:
            group = self._groups.popleft()
            self._running = set(group)
            return group
        rest, self._rest = self._rest, []
        return rest

    def wait(self, rid: str) -> None:
        """A new request, which came while others are examined."""
        self._rest.append(rid)

    def cleared(self, rid: str) -> bool:
        """`rid` got on, or ended. True if `release` has something to say now."""
        if rid in self._running:
            self._running.discard(rid)
            del self._deaths[rid]
            return not self._running
        return False

    def gone(self, rid: str) -> bool:
        """Its client has left; as `cleared`."""
        self._rest = [other for other in self._rest if other != rid]
        others = ([other for other in group if other != rid] for group in self._groups)
        self._groups = deque(group for group in others if group)
        self._deaths.pop(rid, None)
        if rid in self._running:
            self._running.discard(rid)
            return not self._running
        return False


def _halves(rids: list[str]) -> list[list[str]]:
    middle = (len(rids) + 1) // 2
    return [rids[:middle], rids[middle:]]
