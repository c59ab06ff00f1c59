"""Token embedding and the head that turns hidden states into logits; both whole on every rank."""

from __future__ import annotations

import torch

from sglcore.contracts.models import BuildContext
from sglcore.contracts.ops import LinearOp
from sglcore.layers.linear import Linear, Part, write_into
from sglcore.layers.loading import Slot


class VocabEmbedding:
    """ids -> rows of a table [vocab, hidden]."""

    def __init__(self, ctx: BuildContext, vocab: int, hidden: int) -> None:
        self.table = torch.empty(vocab, hidden, dtype=ctx.dtype, device=ctx.device)
        self.embedding = ctx.ops.embedding
        self._on_load: list[LMHead] = []

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int64 [tokens] -> [tokens, hidden]."""
        return self.embedding(ids, self.table)

    def slots(self, name: str) -> dict[str, Slot]:
        """`<name>.weight`."""
        return {f"{name}.weight": Slot(tuple(self.table.shape), self._put)}

    def share_with(self, head: LMHead) -> None:
        """Hand the table to a tied head once it is loaded."""
        self._on_load.append(head)

    def _put(self, tensor: torch.Tensor) -> None:
        self.table.copy_(tensor)
        for head in self._on_load:
            head.take(self.table)


class LMHead:
    """hidden -> logits float32. Tied to an embedding, it reads the same table (its platform's layout of it)."""

    def __init__(self, ctx: BuildContext, vocab: int, hidden: int, *, tied_to: VocabEmbedding | None = None) -> None:
        self.ops = ctx.ops
        self.own = Linear(ctx, hidden, [Part("", vocab)]) if tied_to is None else None
        self.op: LinearOp | None = None
        if tied_to is not None:
            tied_to.share_with(self)

    def __call__(
        self, x: torch.Tensor, sample_index: torch.Tensor | None = None, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x [tokens, hidden] -> float32 [samples, vocab]; only the rows in `sample_index` are computed.

        out: [samples, vocab], float32 or the compute dtype, to write the result into; None for a new tensor.
        """
        op = self.own or self.op
        picked = x if sample_index is None else x.index_select(0, sample_index)
        if out is not None and out.dtype == picked.dtype:
            write_into(op, picked, out)
            return out
        logits = op(picked)  # type: ignore[misc]
        return logits.float() if out is None else out.copy_(logits)

    def slots(self, name: str) -> dict[str, Slot]:
        """`<name>.weight`, or nothing where the head is tied."""
        if self.own is None:
            return {}
        return self.own.slots(name)

    def take(self, table: torch.Tensor) -> None:
        """Use `table` [vocab, hidden], which stays the embedding's: the op may repack it, never write to it."""
        self.op = self.ops.linear(table, None)
