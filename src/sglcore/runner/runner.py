"""ModelRunner: does what a Batch says. Implements `contracts.StepExecutor` for one rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from sglcore.batch import Batch
from sglcore.errors import OutOfMemory
from sglcore.runner.draws import draws, ranks
from sglcore.runner.edits import Edit, apply_edits
from sglcore.runner.graphs import DecodeGraphs
from sglcore.runner.inputs import InputBuilder, StepTensors
from sglcore.runner.landing import Landing, Results, wanted_logprobs
from sglcore.runner.rows import DeviceRows
from sglcore.runner.sampler import sample
from sglcore.runner.shaping import Shaping, penalise
from sglcore.runner.transfers import transfers

if TYPE_CHECKING:
    from sglcore.contracts.attention import AttentionBackend, KVView
    from sglcore.contracts.execution import Collectives, DeviceLauncher, Launcher, Pending, PendingStep
    from sglcore.contracts.models import KVGroup, Model
    from sglcore.contracts.ops import Ops

# What a forward pass leaves for the sampler: the logits, and what a captured step has drawn already.
Forward = tuple[Batch, StepTensors | None, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | None]


class ModelRunner:
    """Holds the model and the device's tables; everything below `forward` and `sample` runs on the device thread."""

    def __init__(
        self,
        model: Model,
        attention: AttentionBackend,
        kv: KVView,
        groups: tuple[KVGroup, ...],
        launcher: Launcher,
        ops: Ops,
        *,
        rows: int,
        pages_per_row: int,
        page_size: int,
        device: torch.device,
        group: Collectives | None = None,
        eos_ids: tuple[int, ...] = (),
        spare: int = 0,
        graph_sizes: Sequence[int] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        """spare: the page that padding is written to. graph_sizes: numbers of rows whose decoding may be captured, with
        activations in `dtype`."""
        self.model = model
        self.launcher = launcher
        self.argmax = ops.argmax
        self.draw = getattr(ops, "draw", None)
        self.group = group
        self.transfers = transfers(launcher, device)
        self.rows = DeviceRows(rows, pages_per_row, groups, device, self.transfers, spare)
        fused = getattr(ops, "penalise", penalise)
        self.shaping = Shaping(rows, model.vocab_size, eos_ids, device, self.transfers, fused)
        self.builder = InputBuilder(self.rows, groups, page_size, attention, kv, self.transfers)
        self.graphs: DecodeGraphs | None = None
        if graph_sizes and self.draw is not None:
            own = cast("DeviceLauncher", launcher)
            self.graphs = DecodeGraphs(model, self.builder, own, self.draw, graph_sizes, dtype or torch.float32)
        self._forward_pending: Pending | None = None

    def forward(self, batch: Batch) -> None:
        """Queue the forward pass. An error in it surfaces from the step's `wait`."""
        self._forward_pending = self.launcher.launch(lambda: self._forward(batch))

    def sample(self, batch: Batch, masks: Any = None) -> PendingStep:
        """Queue the sampler behind the forward pass just queued. `masks`: the step's Edits, or None."""
        forward = self._forward_pending
        return Landing(self.launcher.launch(lambda: self._guarded(forward, masks or ())))

    def follow(self, batch: Batch) -> None:
        """A rank above 0 does one step: forward, then take the tokens that rank 0 sampled. Waits for it."""
        self.launcher.launch(lambda: self._follow(batch)).wait()

    def capture_first(self) -> None:
        """Capture as many sizes as any step needs: the others only save it some padding."""
        if self.graphs is not None:
            for _ in range(1 + self.graphs.sizes[-1].bit_length()):
                self.capture_next()

    def capture_next(self) -> bool:
        """Capture one more size of step, between steps; False if there is none."""
        if self.graphs is None or not self.graphs.missing:
            return False
        graphs, size = self.graphs, self.graphs.missing[0]
        self.launcher.launch(lambda: graphs.capture(size)).wait()
        return True

    def close(self) -> None:
        """Let the device finish and free it."""
        self.launcher.close()
        if self.group is not None:
            self.group.close()

    def _guarded(self, forward: Any, edits: Sequence[Edit]) -> Any:
        """`_sample`; a failed allocation is told as such where the step can be tried again: not among several ranks."""
        try:
            return self._sample(forward, edits)
        except (MemoryError, RuntimeError) as error:
            if self.group is None and _allocation(error):
                raise OutOfMemory(f"{type(error).__name__}: {str(error)[:200]}.") from error
            raise

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> Forward:
        if self.group is None or self.group.rank == 0:  # the others are sent the tokens
            self.shaping.seats(batch)
        size = 0 if self.graphs is None or batch.idle else self.graphs.size_for(batch)
        if size and self.graphs is not None:
            done, count = self.graphs.run(batch, size), len(batch.rows)
            return batch, None, self.graphs.logits[:count], (done.tokens[:count], done.finite[:count])
        self.rows.apply(batch)
        if batch.idle:
            return batch, None, None, None
        tensors = self.builder.build(batch)
        return batch, tensors, self.model.forward(tensors.inputs), None

    @torch.inference_mode()
    def _sample(self, forward: Any, edits: Sequence[Edit]) -> Any:
        """(Results, what fetches them) of the step, whose tokens are left for the next; None for an idle one."""
        batch, tensors, logits, drawn = forward.wait()
        if logits is None:
            return None
        if drawn is None or edits or self.shaping.shapes(batch) or ranks(self.rows, batch):
            logits = logits.float()
            drawn = self._drawn(batch, logits[: len(batch.rows)], edits)
        results = Results(batch, *drawn)
        wanted_logprobs(results, self.rows, tensors, logits, self.transfers)
        if tensors is not None and tensors.hidden_counts:
            results.hidden_states = tensors.inputs.extra["hidden_states"]
            results.hidden_counts = tensors.hidden_counts
        return results, self.transfers.fetch(results.tensors())

    def _drawn(self, batch: Batch, last: torch.Tensor, edits: Sequence[Edit]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and finiteness by row; the tokens are left where the next step's inputs find them."""
        (rows,) = self.transfers.send(batch.rows.astype(np.int64))
        positions = (batch.starts + batch.counts).astype(np.int64)
        shaped = bool(edits) or self.shaping.shapes(batch)
        finite = torch.isfinite(last.sum(-1)) if shaped or self.draw is None else None
        self.shaping.apply(last, batch)
        if edits and finite is not None:
            finite = apply_edits(edits, last, finite)
        self.shaping.forbid_end(last, batch)
        if self.draw is None:
            tokens = sample(last, draws(self.rows, batch, positions), self.argmax)
        else:
            table = self.rows
            (position,) = self.transfers.send(positions)
            tokens, whole = self.draw(last, table.heat[rows], table.seeds[rows], position, table.floor[rows])
            finite = whole if finite is None else finite
            ordered = draws(self.rows, batch, positions, only_ranked=True)
            tokens = sample(last, ordered, self.argmax, tokens)
        if self.group is not None:
            self.group.broadcast(tokens)
        # rows that did not sample are overwritten before they decode
        self.rows.last[rows] = tokens
        self.shaping.sampled(batch, tokens)
        assert finite is not None
        return tokens, finite

    @torch.inference_mode()
    def _follow(self, batch: Batch) -> None:
        assert self.group is not None
        if self._forward(batch)[1] is not None:
            tokens = torch.empty(len(batch.rows), dtype=torch.int64, device=self.rows.device)
            (rows,) = self.transfers.send(batch.rows.astype(np.int64))
            self.rows.last[rows] = self.group.broadcast(tokens)


def _allocation(error: Exception) -> bool:
    """Whether an allocator failed; torch's CPU allocator says so in words only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
