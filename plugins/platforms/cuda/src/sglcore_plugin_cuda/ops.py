"""The CUDA kernel table."""

from __future__ import annotations

from bisect import bisect_left

import torch
import torch.nn.functional as F

from sglcore.contracts.ops import LinearOp
from sglcore_plugin_cuda.kernels import activation, moe_route, norm, penalties, rope, sampling
from sglcore_plugin_cuda.kernels.gemm import make_counters, small_linear
from sglcore_plugin_cuda.kernels.gemm_table import BUCKETS, MOST_ROWS, GemmConfig, config_for
from sglcore_plugin_cuda.kernels.moe import fused_moe

HALF_TYPES = (torch.bfloat16, torch.float16)


class SmallBatchLinear:
    """Own kernels for the batches at which they beat cuBLAS, cuBLAS for the others. Implements `contracts.LinearOp`.

    The weight is kept as it was given. counters: see `kernels.gemm.make_counters`.
    """

    __slots__ = ("bias", "configs", "counters", "out_features", "pdl", "weight")

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, counters: torch.Tensor | None, pdl: bool
    ) -> None:
        self.out_features, into = weight.shape
        self.weight, self.bias = weight, bias
        self.counters, self.pdl = counters, pdl
        self.configs = tuple(config_for(rows, self.out_features, into) for rows in BUCKETS)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out]."""
        if (config := self._config(x)) is not None:
            return small_linear(x, self.weight, self.bias, config, self.counters, pdl=self.pdl)
        return F.linear(x, self.weight, self.bias)

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """See `contracts.ops.WritingLinear`."""
        if (config := self._config(x)) is not None:
            small_linear(x, self.weight, self.bias, config, self.counters, out=out, pdl=self.pdl)
        else:
            _into(x, self.weight, self.bias, out)

    def _config(self, x: torch.Tensor) -> GemmConfig | None:
        """The kernel for these rows; None for cuBLAS."""
        if not 1 <= x.shape[0] <= MOST_ROWS or x.stride(-1) != 1 or x.dtype != self.weight.dtype:
            return None
        return self.configs[bisect_left(BUCKETS, x.shape[0])]


class PlainLinear:
    """cuBLAS for every batch. Implements `contracts.LinearOp`."""

    __slots__ = ("bias", "out_features", "weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.out_features = weight.shape[0]
        self.weight, self.bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out]."""
        return F.linear(x, self.weight, self.bias)

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """See `contracts.ops.WritingLinear`."""
        _into(x, self.weight, self.bias, out)


def _into(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


class CudaOps:
    """Triton kernels, and cuBLAS for matrices. Implements `contracts.Ops` and `FusedOps`; touches no device when made.

    All work is queued on the current stream; split products share counters, so one stream at a time may use them.
    pdl: let each kernel start while the one before it still ends (compute capability 9.0 and later).
    """

    graph_safe = True
    batch_invariant = False  # the kernel of a product depends on the number of rows

    def __init__(self, *, pdl: bool = False) -> None:
        self.pdl = pdl
        self._counters: dict[torch.device, torch.Tensor] = {}

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> LinearOp:
        """weight [out, in], bias [out] or None; kept as they are, without a copy where the weight is contiguous."""
        weight = weight.contiguous()
        found = [config_for(rows, *weight.shape) for rows in BUCKETS] if weight.dtype in HALF_TYPES else []
        if not any(found):
            return PlainLinear(weight, bias)
        split = any(config is not None and config.split > 1 for config in found)
        return SmallBatchLinear(weight, bias, self._counters_on(weight.device) if split else None, self.pdl)

    def embedding(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """ids int64 [tokens], table [vocab, hidden] -> [tokens, hidden]."""
        return table.index_select(0, ids)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x [..., n] -> like x."""
        return norm.rms_norm(x, weight, eps, pdl=self.pdl)

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(norm(x + residual), x + residual), both [tokens, n]; the sum is written to `residual`."""
        return norm.add_rms_norm(x, residual, weight, eps, pdl=self.pdl)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """gate_up [tokens, 2 n] -> silu(first half) * second half."""
        return activation.silu_mul(gate_up, pdl=self.pdl)

    def argmax(self, scores: torch.Tensor) -> torch.Tensor:
        """scores float32 [rows, vocab] -> int64 [rows], the first of equals."""
        return sampling.argmax(scores, pdl=self.pdl)

    def rope(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate halves of q [tokens, heads, dim] and k [tokens, kv_heads, dim] into two new tensors."""
        return rope.rope(q, k, cos, sin, pdl=self.pdl)

    def draw(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        seed: torch.Tensor,
        position: torch.Tensor,
        min_p: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens int64 [rows], whether all logits were finite bool [rows]); see `contracts.ops.FusedOps`."""
        return sampling.draw(logits, temperature, seed, position, min_p, pdl=self.pdl)

    def penalise(
        self,
        logits: torch.Tensor,
        places: torch.Tensor,
        rules: torch.Tensor,
        counts: torch.Tensor,
        prompt: torch.Tensor,
        bias: torch.Tensor,
    ) -> None:
        """Penalties and biases of the rows at `places`, in place; see `contracts.ops.FusedOps`."""
        penalties.penalise(logits, places, rules, counts, prompt, bias, pdl=self.pdl)

    def route(self, logits: torch.Tensor, k: int, normalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The k likeliest experts of each token and their weights; see `contracts.ops.FusedOps`."""
        return moe_route.route(logits, k, normalise, pdl=self.pdl)

    def moe(
        self, x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> torch.Tensor:
        """x [tokens, hidden] -> [tokens, hidden] through the chosen experts; see `contracts.ops.FusedOps`."""
        return fused_moe(x, gate_up, down, weights, experts, pdl=self.pdl)

    def _counters_on(self, device: torch.device) -> torch.Tensor:
        if device not in self._counters:
            self._counters[device] = make_counters(device)
        return self._counters[device]
