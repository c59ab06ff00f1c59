"""Quantization: which checkpoint tensors stand for a linear layer's weight, and the kernel that multiplies by them.

Layers ask the method through `BuildContext.quant`; a model built from `sglcore.layers` serves any method unawares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    import torch

    from sglcore.contracts.ops import LinearOp, Ops


@dataclass(frozen=True, kw_only=True)
class QuantSpec(Spec):
    """A quantization method; `name` is what `--quantization` takes, `factory(QuantContext) -> QuantMethod`.

    methods: values of `quant_method` in config.json's `quantization_config` whose checkpoints it reads.
    online: also takes a plain checkpoint, if named, and quantizes while loading.
    platforms: device types; dtypes: of activations, torch's names; bits: of a stored weight; group_sizes: inputs that
        share a scale, -1 for a whole row. Empty means any; a checkpoint that does not say is not checked.
    moe: serves models with experts. tensor_parallel: its tensors can be cut over ranks.
    kv_dtypes: cache dtypes for which it reads scales from the checkpoint.
    priority: breaks ties between methods that all read a checkpoint, highest first.
    """

    methods: tuple[str, ...] = ()
    online: bool = False
    platforms: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    bits: tuple[int, ...] = ()
    group_sizes: tuple[int, ...] = ()
    moe: bool = False
    tensor_parallel: bool = True
    kv_dtypes: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True, kw_only=True)
class QuantContext:
    """What a method's factory is given, once per engine process before the model is built.

    config: config.json's `quantization_config`, {} for a plain checkpoint. ops: the platform's kernels. dtype, device:
    of activations.
    """

    config: dict[str, Any]
    ops: Ops
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class LinearPart:
    """One matrix [out, in] of a linear layer as the checkpoint names it, and this rank's share of it.

    name: `model.layers.0.self_attn.q_proj`, without suffix. rows, columns: (start, stop) of the outputs and inputs
    that this rank keeps; the whole range without tensor parallelism.
    """

    name: str
    out_features: int
    in_features: int
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class QuantTensor:
    """One checkpoint tensor `<part.name>.<suffix>`, whole, and how it is cut over ranks.

    dtype: torch's name, such as "int8"; "" takes what is stored. out_dim, in_dim: the dimension that runs over outputs
    and over inputs, None where there is none. out_per, in_per: outputs or inputs to one element along it (8 for int4
    packed in int32, the group size for scales of groups). span: (lowest, highest) of dummy values; None scatters
    floating point around 0 and takes any integer.
    """

    suffix: str
    shape: tuple[int, ...]
    dtype: str = ""
    out_dim: int | None = 0
    in_dim: int | None = 1
    out_per: int = 1
    in_per: int = 1
    span: tuple[float, float] | None = None


class QuantMethod(Protocol):
    """Serves one checkpoint's linear layers. Engine process, device thread, only while weights load."""

    def tensors(self, part: LinearPart) -> tuple[QuantTensor, ...] | None:
        """The tensors that stand for the part's `weight`; None where the checkpoint left this matrix plain.

        Called once per part before anything is read. The parts of one layer must agree. A bias is the layer's.
        """
        ...

    def linear(
        self,
        parts: tuple[LinearPart, ...],
        tensors: Sequence[dict[str, torch.Tensor]],
        bias: torch.Tensor | None,
    ) -> LinearOp:
        """The layer's kernel: x [tokens, in of this rank] -> [tokens, outputs of all parts on this rank].

        Called once per layer, when its last tensor is in; tensors[i][suffix] is this rank's share of part i's, on the
        device, the method's to keep or drop. bias [outputs] in the compute dtype. Raises ConfigError naming the layer.
        """
        ...
