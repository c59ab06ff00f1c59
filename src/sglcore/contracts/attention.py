"""Attention backends: how queries meet the paged cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    import torch

    from sglcore.contracts.models import KVGroup


@dataclass(frozen=True, kw_only=True)
class AttentionSpec(Spec):
    """What a backend can do; negotiation compares this with what the model and platform need.

    Empty tuples mean "any". `priority` breaks ties between backends that all fit, highest first.
    """

    platforms: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    head_dims: tuple[int, ...] = ()
    page_sizes: tuple[int, ...] = ()
    sliding_window: bool = False
    soft_cap: bool = False
    sinks: bool = False
    mla: bool = False
    graph_safe: bool = False
    batch_invariant: bool = False
    priority: int = 0


@dataclass(slots=True)
class AttentionBatch:
    """One step as the attention sees it, for one KV group. Rows are in batch order.

    Row r's new tokens are q_lens[r] in number and end at position kv_lens[r] - 1; its pages stand in
    page_table[r], valid for ceil(kv_lens[r] / page_size) entries; others hold anything and must not be read.
    slots[t] = page * page_size + offset is where new token t's key and value go.
    """

    q_lens: torch.Tensor  # int32 [rows]
    kv_lens: torch.Tensor  # int32 [rows], new tokens included
    page_table: torch.Tensor  # int32 [rows, max_pages]
    slots: torch.Tensor  # int64 [tokens]
    max_q_len: int
    max_kv_len: int  # upper bound, known to the host
    page_size: int
    group: KVGroup
    q_lens_host: Any = None  # the same numbers as numpy int32 [rows]
    kv_lens_host: Any = None


class KVView(Protocol):
    """The pool's bytes, by attention layer."""

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) of a layer, each [pages, page_size, kv_heads, head_dim]; the real memory, not a copy."""
        ...


class AttentionBackend(Protocol):
    """Write keys and values to pages; attend over them.

    Exact for any mix of prefill, chunk, decode and cached prefix in one call. Causal: a query at
    position p sees positions <= p (and > p - window where the group has one).
    """

    def plan(self, batches: tuple[AttentionBatch, ...]) -> Any:
        """Prepare one step, one AttentionBatch per KV group. Returns what `write_kv` and `attend` get as `meta`."""
        ...

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: Any) -> None:
        """Store k, v [tokens, kv_heads, head_dim] of the new tokens at their slots."""
        ...

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        kv: KVView,
        meta: Any,
        *,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """q [tokens, heads, head_dim] -> [tokens, heads, head_dim], after `write_kv` of the same layer.

        Softmax in float32. heads is a multiple of kv_heads (GQA).
        """
        ...
