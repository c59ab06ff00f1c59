"""Model architectures: what a model plugin declares, receives and returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    import torch

    from sglcore.contracts.attention import AttentionBackend, KVView
    from sglcore.contracts.ops import Ops


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Spec):
    """A model implementation. `name` is the architecture as in config.json's `architectures`.

    needs: attention capabilities the family may ask for ("sliding_window", "soft_cap", "sinks", "mla");
        what a given checkpoint really needs, its `kv_groups` say.
    fallback: serves any architecture; tried only when no other model matches.
    """

    needs: tuple[str, ...] = ()
    fallback: bool = False


@dataclass(frozen=True, kw_only=True)
class KVGroup:
    """Layers that share page numbers: same kind of cache, same page table.

    kind "full" keeps every position, "window" the last `window` ones, "state" one page a row.
    num_layers x 2 x page_size x kv_heads x head_dim values make one page.
    """

    kind: Literal["full", "window", "state"] = "full"
    layers: tuple[int, ...] = ()  # attention layer indices
    kv_heads: int = 1
    head_dim: int = 64
    window: int = 0

    def bytes_per_token(self, element_size: int) -> int:
        """Bytes that one token takes in this group."""
        return len(self.layers) * 2 * self.kv_heads * self.head_dim * element_size


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """All that a model needs to build itself; handed in, so that a plugin imports nothing above.

    config: the checkpoint's config.json. dtype, device: of parameters and activations.
    tp_rank, tp_size: this process's shard; size 1 is the plain case.
    trust_remote_code: whether the operator allowed code from the model repository.
    """

    config: dict[str, Any]
    ops: Ops
    attention: AttentionBackend
    dtype: torch.dtype
    device: torch.device
    tp_rank: int = 0
    tp_size: int = 1
    directory: str | None = None
    trust_remote_code: bool = False


@dataclass(slots=True)
class ForwardInputs:
    """One step's inputs, passed explicitly all the way down; no ambient context.

    ids, positions: int64 [tokens], rows one after another. attn: what the attention backend's
    `plan` returned for this step. kv: the pool's bytes by layer. sample_index: int64 [samples],
    the token positions whose logits are wanted, or None for all.
    extra: named inputs such as encoder outputs with their spans.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    attn: Any
    kv: KVView
    sample_index: torch.Tensor | None
    extra: dict[str, Any] = field(default_factory=dict)


class Model(Protocol):
    """A built model. Lives in an engine process; all calls come from the device thread."""

    vocab_size: int

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """What the cache must hold; known after construction, before weights."""
        ...

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Consume the checkpoint once. Raises ConfigError naming missing or unknown tensors."""
        ...

    def load_dummy(self, seed: int) -> None:
        """Fill all parameters with small seeded random values (`--load-format dummy`)."""
        ...

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        """-> logits float32 [samples, vocab] for the positions in `inputs.sample_index`."""
        ...
