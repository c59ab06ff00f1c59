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
    """What a backend can do; negotiation compares this with what model, platform and flags ask for.

    platforms: device types; dtypes: of queries, torch's names; head_dims; page_sizes: empty means any.
    kv_dtypes: dtypes of the pool, beside the compute type, that it writes and reads; empty means that none.
    sliding_window, soft_cap, sinks, mla: what a model may need of it; with mla it is a `LatentBackend` too.
    latent_dims: values of a latent with its rotary part that it serves, where `mla`; empty means any.
    prefill, decode, mixed: steps that hold only prompts, only single tokens, or both at once.
    graph_safe: may be captured. batch_invariant: a row's result does not depend on its batch.
    tensor_parallel: right on a rank's share of the heads. rope_write: is a `RopeWriter` too.
    priority: breaks ties between backends that all fit, highest first. decode_priority: the same for steps in which
    rows decode, which another backend may serve over the same cache; None: as `priority`.
    """

    platforms: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    head_dims: tuple[int, ...] = ()
    page_sizes: tuple[int, ...] = ()
    sliding_window: bool = False
    soft_cap: bool = False
    sinks: bool = False
    mla: bool = False
    latent_dims: tuple[int, ...] = ()
    prefill: bool = True
    decode: bool = True
    mixed: bool = True
    graph_safe: bool = False
    batch_invariant: bool = False
    tensor_parallel: bool = True
    rope_write: bool = False
    priority: int = 0
    decode_priority: int | None = None


@dataclass(slots=True)
class AttentionBatch:
    """One step as the attention sees it, for one KV group. Rows are in batch order; tensors on the platform's device.

    Built by the runner for each step and valid for that step: a backend reads it and keeps nothing of it beyond.

    Row r's new tokens are q_lens[r] in number and end at position kv_lens[r] - 1; its pages stand in
    page_table[r], valid for ceil(kv_lens[r] / page_size) entries; others hold anything and must not be read.
    slots[t] = page * page_size + offset is where new token t's key and value go.
    """

    q_lens: torch.Tensor  # int32 [rows]
    kv_lens: torch.Tensor  # int32 [rows], new tokens included
    page_table: torch.Tensor  # int32 [rows, max_pages]
    slots: torch.Tensor  # int64 [tokens]
    max_q_len: int  # largest of q_lens
    max_kv_len: int  # upper bound, known to the host
    page_size: int  # positions in a page
    group: KVGroup  # whose pages these are
    q_lens_host: Any = None  # the same numbers as numpy int32 [rows]
    kv_lens_host: Any = None  # likewise


class KVView(Protocol):
    """The pool's bytes, by attention layer. One per rank; used in the device thread."""

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) of a layer, each [pages, page_size, kv_heads, head_dim]; the real memory, not a copy."""
        ...

    def latent(self, index: int) -> torch.Tensor:
        """Of a layer whose group is of kind "latent": [pages, page_size, 1, head_dim]; the real memory, not a copy."""
        ...


class AttentionBackend(Protocol):
    """Write keys and values to pages; attend over them.

    Built once per rank in the engine process, as `factory()`, before the model, which is handed it. All calls come from
    the device thread: `plan` once per step, then for each layer `write_kv` and `attend`. It owns what it returns from
    `plan` and its own workspaces, nothing else. What it raises ends the engine.

    Exact for any mix of prefill, chunk, decode and cached prefix in one call. Causal: a query at
    position p sees positions <= p (and > p - window where the group has one).
    """

    def plan(self, batches: tuple[AttentionBatch, ...]) -> Any:
        """Prepare one step, one AttentionBatch per KV group in the model's order, for all layers at once.

        Returns what `write_kv` and `attend` of this step get as `meta`; nobody else looks into it.
        """
        ...

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: Any) -> None:
        """Store k, v [tokens, kv_heads, head_dim], compute dtype, of the new tokens at their slots; other slots stay.

        layer: attention layer index, as in `KVGroup.layers`.
        """
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

        Softmax in float32. heads is a multiple of kv_heads (GQA). The result is a new tensor in the dtype of q.
        scale: factor of the scores. window: the group's, 0 for none. soft_cap: scores become cap * tanh(score / cap), 0
        for none. sinks: [heads], a score per head that takes part in the softmax and has no value.
        """
        ...


class RopeWriter(Protocol):
    """What a backend has beside `AttentionBackend` whose Spec declares `rope_write`; called as that is."""

    def rope_write(
        self,
        layer: int,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        heads: int,
        kv: KVView,
        meta: Any,
        *,
        q_norm: torch.Tensor | None = None,
        k_norm: torch.Tensor | None = None,
        eps: float = 0.0,
    ) -> torch.Tensor:
        """`Ops.rope` and `write_kv` in one, called in their place where the Spec declares `rope_write`.

        qkv [tokens, heads + 2 kv_heads, head_dim] as the projection left it, any row stride; it may be overwritten, and
        is the layer's no more until `attend` has returned. cos, sin: as for `rope`.
        q_norm, k_norm [head_dim]: weights of a root-mean-square norm over each head before the rotation, with `eps`.
        Returns the rotated queries [tokens, heads, head_dim], a new tensor; keys and values are in the pool.
        """
        ...


class LatentBackend(Protocol):
    """What a backend has beside `AttentionBackend` whose Spec declares `mla`; called as that is.

    Multi-head latent attention in its absorbed form (DeepSeek-V2, arXiv:2405.04434): one vector a token, which all
    heads share, is cached in place of keys and values, in a group of kind "latent". Its first `rank` values are the
    latent, key and value at once; the others are the rotary part of the key. The layer has multiplied the projections
    that lead out of the latent into queries and results (`sglcore.layers.LatentAttention`).

    As exact as `AttentionBackend` is, for the same steps.
    """

    def write_latent(self, layer: int, latent: torch.Tensor, rope: torch.Tensor, kv: KVView, meta: Any) -> None:
        """Store latent [tokens, rank] and rope [tokens, rope_dim], side by side, at the new tokens' slots.

        Both in the compute dtype, any stride of tokens, rope rotated. Other slots stay.
        """
        ...

    def attend_latent(
        self,
        layer: int,
        q_latent: torch.Tensor,
        q_rope: torch.Tensor,
        kv: KVView,
        meta: Any,
        *,
        scale: float,
    ) -> torch.Tensor:
        """q_latent [tokens, heads, rank], q_rope [tokens, heads, rope_dim] -> [tokens, heads, rank].

        After `write_latent` of the same layer. A score is scale * (q_latent . latent + q_rope . rope), softmax in
        float32; the result is the weighted sum of latents, a new tensor in the dtype of q_latent. Queries may have any
        stride of tokens and heads, and stay as they are.
        """
        ...


class GraphBackend(Protocol):
    """What a backend may have beside `AttentionBackend` whose Spec declares `graph_safe`; called as that is."""

    def refresh(self, meta: Any, batches: tuple[AttentionBatch, ...]) -> None:
        """Make `meta`, with which a step was captured, true for the replay that comes next.

        Called on the device thread before each replay, where the Spec declares `graph_safe`. `batches` hold the very
        tensors that `plan` saw, whose contents the replay sets, and host copies that are those of the coming step. A
        backend whose kernels read nothing but those tensors needs none of this.
        """
        ...
