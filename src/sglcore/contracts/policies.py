"""Queue policies: in which order waiting branches are considered for admission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class PolicySpec(Spec):
    """A policy; `factory` is a class without arguments."""


class Waiting(Protocol):
    """What a policy may know of a waiting branch."""

    queued_at: float  # monotonic seconds
    tokens: np.ndarray  # int32 [tokens], read only: the prompt, and after a retraction what was generated so far

    @property
    def rid(self) -> str: ...


W = TypeVar("W", bound=Waiting)


class Policy(Protocol):
    """Orders the queue. Called once per plan in which a seat is free, in the engine process, no torch."""

    def order(self, waiting: Sequence[W], matched: Callable[[W], int]) -> Sequence[W]:
        """The same branches, first to be admitted first.

        `matched(branch)` is the number of its tokens in the prefix cache now (a tree walk: call it sparingly).
        """
        ...
