"""Sums over tensor-parallel ranks on the CPU, through torch.distributed's gloo process group."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from sglcore.contracts.execution import Rendezvous
from sglcore.errors import EngineDead

# Longest wait for another rank: a step is far shorter; loading a large model from a slow disk may take minutes.
TIME_LIMIT = timedelta(minutes=10)


class GlooGroup:
    """Implements `contracts.Collectives`. Its own group: torch.distributed's global default is left to the user."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self.rank = rendezvous.rank
        self.size = rendezvous.size
        store = dist.FileStore(rendezvous.store, rendezvous.size)
        # `Any`: torch's stubs do not tell of the group's own methods
        self._group: Any = dist.ProcessGroupGloo(store, self.rank, self.size, TIME_LIMIT)
        self._least = dist.AllreduceOptions()
        self._least.reduceOp = cast(Any, dist.ReduceOp.MIN)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place."""
        self._joined.allreduce([x]).wait()
        return x

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Rank 0's values, in place."""
        self._joined.broadcast(x, 0).wait()
        return x

    def least(self, value: int) -> int:
        """The smallest value of all ranks."""
        box = torch.tensor([value])
        self._joined.allreduce([box], self._least).wait()
        return int(box)

    def close(self) -> None:
        """Leave. Idempotent."""
        self._group = None

    @property
    def _joined(self) -> Any:
        if self._group is None:
            raise EngineDead("The process group was closed.")
        return self._group
