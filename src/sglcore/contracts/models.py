"""Model architectures: what a model plugin declares, receives and returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    import torch

    from sglcore.contracts.attention import AttentionBackend, KVView
    from sglcore.contracts.ops import Ops
    from sglcore.contracts.quant import QuantMethod


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Spec):
    """A model implementation. `name` is the architecture as in config.json's `architectures`.

    needs: attention capabilities the family may ask for ("sliding_window", "soft_cap", "sinks", "mla");
        what a given checkpoint really needs, its `kv_groups` say.
    fallback: serves any architecture; tried only when no other model serves.
    platforms: device types; dtypes: compute types, torch's names; empty means any.
    tensor_parallel: builds its share from `BuildContext.tp_rank`; without it, the constructor raises ConfigError
        where `tp_size` is more than 1. quantization: its linear layers ask
        `BuildContext.quant`, as those of `sglcore.layers` do. lora: its linear layers can take adapters.
    graph_safe: its `forward` may be captured and replayed: it neither waits for the device nor looks at its values. A
        built model may have an attribute `graph_safe`, known once its weights are loaded, which then counts instead.
    hidden_states: gives hidden states where `ForwardInputs.hidden_index` asks for them.
    priority: breaks ties between models that serve one architecture (through `replaces`), highest first.
    """

    needs: tuple[str, ...] = ()
    fallback: bool = False
    platforms: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    tensor_parallel: bool = False
    quantization: bool = False
    lora: bool = False
    graph_safe: bool = False
    hidden_states: bool = False
    priority: int = 0


@dataclass(frozen=True, kw_only=True)
class KVGroup:
    """Layers that share page numbers: same kind of cache, same page table.

    kind: "full" keeps every position, "window" the last `window` ones, "state" one page a row, "latent" every position
        as one vector for all heads in place of keys and values: its model needs "mla", see `LatentBackend`.
    kv_heads: of this rank, 1 of kind "latent". head_dim: values in a key or value of one head; of kind "latent" in a
        latent with its rotary part.
    window: positions that are kept, of kind "window" only; 0 otherwise.

    num_layers x 2 x page_size x kv_heads x head_dim values make one page, half of that of kind "latent".
    """

    kind: Literal["full", "window", "state", "latent"] = "full"
    layers: tuple[int, ...] = ()  # attention layer indices
    kv_heads: int = 1
    head_dim: int = 64
    window: int = 0

    def bytes_per_token(self, element_size: int) -> int:
        """Bytes that one token takes in this group."""
        vectors = 1 if self.kind == "latent" else 2
        return len(self.layers) * vectors * self.kv_heads * self.head_dim * element_size


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """All that a model needs to build itself; handed in, so that a plugin imports nothing above.

    config: the checkpoint's config.json. ops: the kernels, for the layers. attention: the backend, called per layer.
    dtype, device: of parameters and activations. directory: the checkpoint's folder; None where it is a single file.
    tp_rank, tp_size: this process's shard; size 1 is the plain case. all_reduce: sums a tensor over the ranks in
        place and returns it; None with one rank.
    quant: what stands for the weights of linear layers; None for plain ones. The layers of `sglcore.layers` ask it.
    trust_remote_code: whether the operator allowed code from the model repository.
    """

    config: dict[str, Any]
    ops: Ops
    attention: AttentionBackend
    dtype: torch.dtype
    device: torch.device
    tp_rank: int = 0
    tp_size: int = 1
    all_reduce: Callable[[torch.Tensor], torch.Tensor] | None = None
    quant: QuantMethod | None = None
    directory: str | None = None
    trust_remote_code: bool = False


@dataclass(slots=True)
class ForwardInputs:
    """One step's inputs, passed explicitly all the way down; no ambient context.

    ids, positions: int64 [tokens], rows one after another. attn: what the attention backend's
    `plan` returned for this step. kv: the pool's bytes by layer. sample_index: int64 [samples],
    the token positions whose logits are wanted, or None for all.
    hidden_index: int64 [n], the token positions whose hidden states are wanted, or None. A model whose Spec declares
    `hidden_states` then leaves the last layer's output at them, after the final norm, in `extra["hidden_states"]`,
    [n, hidden] in any float type. Others never see it.
    logits: [samples, vocab], float32 or the compute dtype, to write the result into, or None for a new tensor; a model
    may ignore it.
    extra: named inputs such as encoder outputs with their spans.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    attn: Any
    kv: KVView
    sample_index: torch.Tensor | None
    hidden_index: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Model(Protocol):
    """A built model. Lives in an engine process, one a rank; all calls come from the device thread.

    Its constructor takes the BuildContext and allocates its parameters on the context's device. It is then asked for
    `kv_groups`, given its weights once, and called once per step. What it raises in `forward` ends the engine.
    """

    vocab_size: int  # columns of the logits, over all ranks

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """What the cache must hold; known after construction, before weights."""
        ...

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Consume the checkpoint once: (Hugging Face parameter name, CPU tensor) in file order.

        A tensor is valid until the next is asked for: copy what is kept. Raises ConfigError naming missing, unknown or
        misshapen tensors.
        """
        ...

    def load_dummy(self, seed: int) -> None:
        """Fill all parameters with small seeded random values (`--load-format dummy`)."""
        ...

    def forward(self, inputs: ForwardInputs) -> torch.Tensor:
        """-> logits float32 [samples, vocab] for the positions in `inputs.sample_index`, the caller's.

        They stand in `inputs.logits` or in a new tensor.

        Called once per step with at least one token, under `torch.inference_mode`. Per attention layer it calls the
        backend's `write_kv`, then `attend`. A row's logits do not depend on the other rows.
        """
        ...
