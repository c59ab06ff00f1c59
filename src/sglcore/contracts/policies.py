"""Policies: in which order waiting branches are considered for admission, and unused prefixes evicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class PolicySpec(Spec):
    """A policy. `factory() -> Policy`, once in the engine process; imports no torch."""


class Waiting(Protocol):
    """What a policy may know of a waiting branch; read only."""

    queued_at: float  # monotonic seconds
    tokens: np.ndarray  # int32 [tokens], read only: the prompt, and after a retraction what was generated so far
    priority: float  # higher goes first: the request's, turned round or aged as the server was told

    @property
    def rid(self) -> str:
        """The request's id; the branches of one request share it."""
        ...

    @property
    def namespace(self) -> str:
        """Where its prefix may be cached; equal tokens under two namespaces share nothing."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """How many tokens it may generate."""
        ...


W = TypeVar("W", bound=Waiting)


class Policy(Protocol):
    """Orders the queue. Lives in the engine process; called in the loop thread while a step is planned.

    It may keep state of its own, such as what it has let pass, but nothing that needs to survive a restart.
    """

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        """The same branches, first to be admitted first; none left out, none twice. Delays the step: be quick.

        Called once per plan in which a seat is free, or may be made free by priority. `waiting` is in order of
        arrival, where a retracted branch keeps its place; it is the scheduler's and read only. The queue puts its own
        rules above this order: priority where that is enabled, and who was passed over as often as may
        (`--schedule-max-overtakes`) is next.
        `matched(branch)` is the number of its tokens in the prefix cache now (a tree walk: call it sparingly).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EvictionSpec(PolicySpec):
    """An order of eviction for `--radix-eviction-policy`. `factory() -> EvictionOrder`, once in the engine process."""


class CachedRun(Protocol):
    """What an order may know of a run of cached tokens that nobody uses now; read only.

    `last_use` and `born` are ticks of one clock that goes on with each use.
    """

    last_use: int  # tick of the last request that brought or used it
    born: int  # tick at which it was cached
    hits: int  # requests served from it
    priority: float  # the highest of the requests that brought or used it
    tenant: str  # whom it is charged to: the request's tenant, else its cache namespace


class EvictionOrder(Protocol):
    """Says which unused prefix goes first when pages run out. Lives in the engine process, in the loop thread."""

    def rank(self, run: CachedRun) -> Any:
        """A number or tuple that compares with the others'; the lowest goes first.

        A run's rank must not fall while it lives: it is asked again only when the run's turn seems to have come.
        Called once or twice per evicted run while a step is planned: be quick. It can be as simple as
        `return run.last_use`.
        """
        ...
