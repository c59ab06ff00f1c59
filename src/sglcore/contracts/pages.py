"""Pages on the move: what `kv_tiers` and `kv_transfers` share. Provisional, as both families are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sglcore.contracts.attention import KVView
    from sglcore.contracts.models import KVGroup


@dataclass(frozen=True, kw_only=True)
class PageContext:
    """What a tier or transfer is built with; one per rank, handed over in the engine process.

    kv: the pool's bytes by layer. Only pages that the core has named in a call that is not finished may be touched.
    groups: the model's KV groups; page arrays come in this order.
    page_size: tokens in a page, the same in all groups.
    dtype: of keys and values in the pool.
    device: where the pool lives.
    layout: a fingerprint of model, weight version, dtype, page size and shard. Bytes stored under one layout mean
        nothing under another, so a store that outlives the process keeps them apart.
    rank, ranks: this shard among those of one replica; every rank moves its own bytes.
    options: the plugin's own settings, from its flags (`EngineConfig.extras`).
    wake: tells the engine's loop that there is something to poll. Any thread may call it, at once, as often as it
        likes; without it a loop that has nothing to compute sleeps.
    """

    kv: KVView
    groups: tuple[KVGroup, ...]
    page_size: int
    dtype: torch.dtype
    device: torch.device
    layout: str
    rank: int = 0
    ranks: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    wake: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class PageRun:
    """Neighbouring pages of one sequence, with their place in the pool. Built by the core, read only.

    keys: one a page; a digest over everything from the sequence's start to the page's end (namespace, token ids, media
        spans, position scheme). Under one layout equal keys mean equal bytes.
    pages: for each KV group int32 [len(keys)], page numbers in this rank's pool.
    first: index of the first page in its sequence.
    """

    keys: tuple[bytes, ...]
    pages: tuple[np.ndarray, ...]
    first: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a transfer is.

    state: "running"; or one of the three ends, after which it never changes and the plugin touches no page of it.
    arrived: leading pages of the run that are complete in every group and layer; only grows. Pages that have arrived
        count even if the transfer then fails: the core computes the rest.
    reason: why it failed, one line for the log; "" otherwise.
    """

    state: Literal["running", "done", "failed", "cancelled"]
    arrived: int = 0
    reason: str = ""


class Transfer(Protocol):
    """One movement of pages, begun by a tier or transfer and owned by the core until it has ended.

    The core holds the pages as long as `poll` says "running", whatever becomes of the request, so no page is given
    away while somebody still writes to it. All calls come from the engine's loop thread.
    """

    def poll(self) -> Progress:
        """How far it is. Called between steps; must not block and must not raise: what goes wrong is a "failed"."""
        ...

    def cancel(self) -> None:
        """Stop as soon as may be; returns at once, and `poll` tells of the end. Idempotent, harmless after the end.

        Called when the request is aborted or its deadline has passed.
        """
        ...
