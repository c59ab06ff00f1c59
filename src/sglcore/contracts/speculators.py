"""Speculators: propose tokens, which the model then verifies several at a time. Provisional: drafted, not yet called.

A proposer on the host (n-grams, a suffix tree) works on token ids between steps; one on the device (a draft model,
extra heads) runs behind the forward pass. Either only proposes: the core verifies, so the answers are distributed
exactly as without it, and a bad proposer costs time only. A step then commits 1 .. drafts + 1 tokens a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sglcore.contracts.spec import Spec, optional

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sglcore.contracts.attention import KVView
    from sglcore.contracts.models import KVGroup


@dataclass(frozen=True, kw_only=True)
class SpeculatorSpec(Spec):
    """A proposer. The factory depends on `where`:

    "host": `factory(context: DraftContext) -> HostProposer`, once in the engine process, in the loop thread.
    "device": `factory(context: DraftContext, build: BuildContext, target: Model) -> DeviceProposer`, once per rank, in
    the device thread, after the target has been built and before weights are read.

    where: on which side it works.
    max_drafts: the most tokens it proposes a row and step.
    needs_values: must see the tokens of step N before it proposes for N + 1. This costs its rows the overlap: they sit
        out while a step of theirs is in flight. A device proposer reads the device's row table instead.
    needs_hidden: decoder layers of the target whose output it wants, by index; -1 is the last, after its norm.
    needs_draft: reads a checkpoint of its own (`--speculative-draft-model-path`).
    architectures: targets that it serves; empty means any.
    """

    where: Literal["host", "device"]
    max_drafts: int
    needs_values: bool = False
    needs_hidden: tuple[int, ...] = ()
    needs_draft: bool = False
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DraftContext:
    """What a proposer is built with.

    rows: seats; a row number is below this, and a seat keeps its row as long as it is taken.
    context_length: most tokens a row can have.
    vocab_size: of the target; every proposed id is below it.
    drafts: how many tokens a row and step are wanted, at most the spec's max_drafts.
    draft_config: the draft checkpoint's config.json; {} where there is none.
    options: the plugin's own settings, from its flags (`EngineConfig.extras`).
    """

    rows: int
    context_length: int
    vocab_size: int
    drafts: int
    draft_config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class HostDrafts:
    """Proposals for some rows, in the order asked. A new object each time; the core takes it over.

    tokens: int32 [rows, drafts]; what stands beyond a row's length is not read.
    lengths: int32 [rows], 0 .. the row's limit; 0 means no proposal, and the row decodes as usual.
    """

    tokens: np.ndarray
    lengths: np.ndarray


class HostProposer(Protocol):
    """Proposes from token ids alone, on the CPU. Lives in the engine process; all calls come from the loop thread.

    State is per row and a function of the row's tokens: `enter` with all of them builds it, at the first seating as
    after a retraction or a replay.
    """

    def enter(self, row: int, tokens: np.ndarray) -> None:
        """A branch takes seat `row` with `tokens` int32 [n] so far, prompt and answer; a view, valid for the call."""
        ...

    def propose(self, rows: Sequence[int], limits: Sequence[int]) -> HostDrafts:
        """Called while a step is planned, for all decoding rows at once; delays the step. At most limits[i] tokens for
        rows[i]: what pages, length and grammar leave room for."""
        ...

    def commit(self, row: int, tokens: np.ndarray, proposed: int) -> None:
        """`tokens` int32 [1 .. proposed + 1] were committed to the row; the first len(tokens) - 1 were proposals."""
        ...

    def leave(self, row: int) -> None:
        """The seat is free; forget the row."""
        ...

    @optional
    def stats(self) -> dict[str, Any]:
        """Counters for `/metrics` and `/server_info`: flat, name -> number. At most every 100 ms."""
        return {}


@dataclass(slots=True)
class DraftInputs:
    """What a device proposer sees behind a forward pass; all tensors on the device, read only, valid for the call.

    rows: int64 [rows], seats, in batch order.
    last: int64 [rows], the token each row committed last.
    lengths: int64 [rows], tokens each row now has, `last` included.
    hidden: by layer of `needs_hidden` [tokens, hidden] of the positions just computed, rows one after another.
    spans: int64 [rows + 1]; row r's positions in `hidden` are spans[r] .. spans[r + 1] - 1. Of a verified row only the
        first accepted[r] + 1 hold.
    accepted: int64 [rows], proposals accepted in this step.
    kv: the pool's bytes by layer, those of the proposer's own KV groups included.
    attn: what the attention backend's `plan` returned for drafting positions; None without KV groups of its own.
    """

    rows: torch.Tensor
    last: torch.Tensor
    lengths: torch.Tensor
    hidden: dict[int, torch.Tensor]
    spans: torch.Tensor
    accepted: torch.Tensor
    kv: KVView
    attn: Any = None


class DeviceProposer(Protocol):
    """Proposes on the device. Lives in the engine process, one a rank; all calls come from the device thread.

    Nothing in it may wait for the device or read a value on the host: that would cost the overlap it exists for. What
    it keeps of a row lies in its KV groups or in tensors by row, and is rebuilt by computing the row's tokens again.
    """

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """What the cache must hold for it beside the target's groups; () for none. Its layers are numbered on from the
        target's."""
        ...

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Consume the draft checkpoint, or an empty iterable without one. Raises ConfigError naming missing or unknown
        tensors."""
        ...

    def propose(self, inputs: DraftInputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(tokens int64 [rows, drafts], distribution they were drawn from float32 [rows, drafts, vocab] or None).

        None means greedy: a proposal is accepted where it is what the target would have picked. With a distribution the
        core accepts by rejection sampling. New tensors, which the core takes over.
        """
        ...
