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
    """One workspace a (device, group size, head size), made when it is first needed and kept.

    CROWD bounds the programs of a launch that has parts, and so the size; steps follow each other on one stream, so
    that one is enough.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.device, int, int], Workspace] = {}

    def get(self, device: torch.device, group: int, dim: int) -> Workspace:
        """For `group` query heads a key head, of `dim` values."""
        key = (device, group, dim)
        found = self._kept.get(key)
        if found is None:
            lines = CROWD * group
            found = self._kept[key] = Workspace(
                torch.empty(lines * dim, dtype=torch.float32, device=device),
                torch.empty(lines, dtype=torch.float32, device=device),
                torch.zeros(CROWD, dtype=torch.int32, device=device),
            )
        return found
