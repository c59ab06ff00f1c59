"""KVPool: the bytes behind the ledger's page numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sglcore.contracts.models import KVGroup

if TYPE_CHECKING:
    import torch


class KVPool:
    """Keys and values of all attention layers, paged. Implements `contracts.KVView`.

    Each group has one page more than the ledger counts: padding may be written there, it is never read.
    """

    def __init__(
        self,
        groups: Sequence[KVGroup],
        pages: Sequence[int],
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        import torch

        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._latents: dict[int, torch.Tensor] = {}
        for group, count in zip(groups, pages, strict=True):
            shape = (count + 1, page_size, group.kv_heads, group.head_dim)
            for layer in group.layers:
                if group.kind == "latent":
                    self._latents[layer] = torch.empty(shape, dtype=dtype, device=device)
                    continue
                self._layers[layer] = (
                    torch.empty(shape, dtype=dtype, device=device),
                    torch.empty(shape, dtype=dtype, device=device),
                )

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) of a layer, each [pages + 1, page_size, kv_heads, head_dim]."""
        return self._layers[index]

    def latent(self, index: int) -> torch.Tensor:
        """Of a layer whose group is of kind "latent", [pages + 1, page_size, 1, head_dim]."""
        return self._latents[index]
