"""Memory for the parts of rows that decode cuts: a fixed size, so that what was captured stays true."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sglcore_plugin_triton_attention.tables import CROWD


class Workspace(NamedTuple):
    """partial: float32 results of parts. weight: float32, log2 of their sums. arrived: int32 counters, zero at rest."""

    partial: torch.Tensor
    weight: torch.Tensor
    arrived: torch.Tensor


class Workspaces:
    """One workspace a (device, group size, head size, crowd), made when it is first needed and kept.

    The crowd bounds the programs of a launch that has parts, and so the size; steps follow each other on one stream, so
    that one is enough.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.device, int, int, int], Workspace] = {}

    def get(self, device: torch.device, group: int, dim: int, crowd: int = CROWD) -> Workspace:
        """For `group` query heads a key head, of `dim` values, and at most `crowd` programs that have parts."""
        key = (device, group, dim, crowd)
        found = self._kept.get(key)
        if found is None:
            lines = crowd * group
            found = self._kept[key] = Workspace(
                torch.empty(lines * dim, dtype=torch.float32, device=device),
                torch.empty(lines, dtype=torch.float32, device=device),
                torch.zeros(crowd, dtype=torch.int32, device=device),
            )
        return found
