"""Ops: the table of kernels handed to the layers, resolved from the platform at build time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class OpsSpec(Spec):
    """Kernels that take the place of some of the platform's; `factory()` returns an object with those methods.

    provides: names of methods of `Ops`. platforms, dtypes: where they serve; empty means any.
    priority: of several that provide one op, the highest is taken; the platform's own has none.
    graph_safe: may be captured; batch_invariant: a row's result does not depend on its batch.
    """

    provides: tuple[str, ...]
    platforms: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    graph_safe: bool = False
    batch_invariant: bool = False
    priority: int = 0


class LinearOp(Protocol):
    """A linear map whose weight is already in the layout its platform likes best."""

    out_features: int  # columns of the result

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in] contiguous, compute dtype -> [tokens, out], a new tensor."""
        ...


class WritingLinear(LinearOp, Protocol):
    """What a `LinearOp` may be beside: one that spares a copy where the place of the result is known before."""

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """The same written to `out` [tokens, out] contiguous, of the dtype of x."""
        ...


class Ops(Protocol):
    """The kernels a model is built from; each has a torch reference in `sglcore.layers.reference`.

    One table per rank, in the engine process; called in the device thread, `linear` while weights are loaded, the
    others in every step. All take and return tensors of the compute dtype on the platform's device, contiguous in the
    last dimension. Results are the caller's. None keeps a reference to its inputs, and none may wait for the device.
    """

    graph_safe: bool  # every op may be captured and replayed
    batch_invariant: bool  # a row's result does not depend on the other rows

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> LinearOp:
        """Prepare weight [out, in] (and bias [out]); takes ownership, may repack and drop it. At load only."""
        ...

    def embedding(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """ids int64 [tokens], table [vocab, hidden] -> [tokens, hidden]."""
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Root-mean-square norm over the last dimension, statistics in float32 -> like x."""
        ...

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(norm(x + residual), x + residual); may write the sum into `residual` in place."""
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """gate_up [tokens, 2 * n] -> silu(first half) * second half, [tokens, n]."""
        ...

    def argmax(self, scores: torch.Tensor) -> torch.Tensor:
        """scores float32 [rows, vocab] -> int64 [rows], the index of each row's largest; the first of equals."""
        ...

    def rope(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate halves (Neox layout). q [tokens, heads, dim], k [tokens, kv_heads, dim].

        cos, sin float32 [tokens, rotary_dim / 2], gathered once per step. Dimensions past rotary_dim pass through.
        """
        ...


class FusedOps(Protocol):
    """Kernels that a table may have beside `Ops`, called as those are; where one is missing the core takes its steps
    one by one."""

    def draw(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        seed: torch.Tensor,
        position: torch.Tensor,
        min_p: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One token a row without a look at the order of tokens: (int64 [rows], bool [rows] whether all logits were
        finite).

        logits float32 [rows, vocab]; temperature float32, 0 for greedy (then `argmax`); seed, position int64; min_p
        float32, 0 for none, all [rows]. Scores are logits / temperature plus Gumbel noise of (seed, position, token),
        the very numbers of `sglcore.layers.reference.gumbel`.
        """
        ...

    def penalise(
        self,
        logits: torch.Tensor,
        places: torch.Tensor,
        rules: torch.Tensor,
        counts: torch.Tensor,
        prompt: torch.Tensor,
        bias: torch.Tensor,
    ) -> None:
        """Penalties and biases of n rows of logits, float32 [rows, vocab], in place; rows that are not named stay.

        places int64 [3, n]: of each row its index in the logits, none twice, its slot in `counts` and `prompt`, and its
        slot in `bias`; slot 0 of each table holds zeros. rules float32 [n, 3]: the penalties for frequency and for
        presence, and that for repetition. counts int32 [slots, vocab]: how often the row has generated a token; prompt
        bool [slots, vocab]: whether its prompt has it; bias float32 [bias slots, vocab].

        The logit of a token in prompt or output is divided by `repetition` where it is above 0, else multiplied by it;
        then less count * frequency, less presence where the count is not 0, plus bias, each rounded to float32.
        """
        ...

    def route(self, logits: torch.Tensor, k: int, normalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """A router's choice: the k largest of softmax(logits) and whose they are, (float32, int32), both [tokens, k].

        logits [tokens, experts]; softmax in float32; of equals the first; normalise: divide the k by their sum. Every
        index is below the number of experts, whatever the logits are.
        """
        ...

    def moe(
        self, x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> torch.Tensor:
        """A layer of gated experts: for each token the sum over its experts of weight * down(silu_mul(gate_up(x))).

        x [tokens, hidden]; gate_up [experts, 2 * inner, hidden], down [experts, hidden, inner]; weights float32 and
        experts int32 [tokens, k]: which experts each token takes, and how much of each. -> [tokens, hidden], summed in
        float32.
        """
        ...
