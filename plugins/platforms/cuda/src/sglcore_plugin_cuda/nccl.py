"""Sums over tensor-parallel ranks on GPUs, through torch.distributed's NCCL process group."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from sglcore.contracts.execution import Rendezvous
from sglcore.errors import EngineDead

TIME_LIMIT = timedelta(minutes=10)  # for another rank: loading may take minutes


class NcclGroup:
    """Implements `contracts.Collectives`. Its own group: torch.distributed's global default is left to the user."""

    def __init__(self, rendezvous: Rendezvous, device: torch.device) -> None:
        self.rank = rendezvous.rank
        self.size = rendezvous.size
        self.device = device
        store = dist.FileStore(rendezvous.store, rendezvous.size)
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = TIME_LIMIT
        # `Any`: torch's stubs do not tell of the group's own methods
        self._group: Any = dist.ProcessGroupNCCL(store, self.rank, self.size, options)
        self._least = dist.AllreduceOptions()
        self._least.reduceOp = cast(Any, dist.ReduceOp.MIN)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place, in the order of the stream."""
        self._joined.allreduce([x]).wait()
        return x

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Rank 0's values, in place."""
        self._joined.broadcast(x, 0).wait()
        return x

    def least(self, value: int) -> int:
        """The smallest value of all ranks; waits for the device."""
        box = torch.tensor([value], device=self.device)
        self._joined.allreduce([box], self._least).wait()
        return int(box)

    def close(self) -> None:
        """Leave. Idempotent."""
        group, self._group = self._group, None
        if group is not None:
            group.abort()

    @property
    def _joined(self) -> Any:
        if self._group is None:
            raise EngineDead("The process group was closed.")
        return self._group
