"""ModelRunner: does what a Batch says. Implements `contracts.StepExecutor` for one rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sglcore.batch import Batch, StepResult
from sglcore.errors import OutOfMemory
from sglcore.request import HiddenStates
from sglcore.runner.draws import draws
from sglcore.runner.edits import Edit, apply_edits
from sglcore.runner.inputs import InputBuilder, StepTensors
from sglcore.runner.logprobs import token_logprobs
from sglcore.runner.rows import DeviceRows
from sglcore.runner.sampler import sample
from sglcore.runner.shaping import Shaping

if TYPE_CHECKING:
    from sglcore.contracts.attention import AttentionBackend, KVView
    from sglcore.contracts.execution import Collectives, Launcher, Pending, PendingStep
    from sglcore.contracts.models import KVGroup, Model
    from sglcore.contracts.ops import Ops


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
    ) -> None:
        self.model = model
        self.launcher = launcher
        self.argmax = ops.argmax
        self.group = group
        self.rows = DeviceRows(rows, pages_per_row, groups, device)
        self.shaping = Shaping(rows, model.vocab_size, eos_ids, device)
        self.builder = InputBuilder(self.rows, groups, page_size, attention, kv)
        self._forward_pending: Pending | None = None

    def forward(self, batch: Batch) -> None:
        """Queue the forward pass. An error in it surfaces from the step's `wait`."""
        self._forward_pending = self.launcher.launch(lambda: self._forward(batch))

    def sample(self, batch: Batch, masks: Any = None) -> PendingStep:
        """Queue the sampler behind the forward pass just queued. `masks`: the step's Edits, or None."""
        forward = self._forward_pending
        return self.launcher.launch(lambda: self._guarded(forward, masks or ()))

    def follow(self, batch: Batch) -> None:
        """A rank above 0 does one step: forward, then take the tokens that rank 0 sampled. Waits for it."""
        self.launcher.launch(lambda: self._follow(batch)).wait()

    def close(self) -> None:
        """Let the device finish and free it."""
        self.launcher.close()
        if self.group is not None:
            self.group.close()

    def _guarded(self, forward: Any, edits: Sequence[Edit]) -> StepResult:
        """`_sample`; a failed allocation is told as such where the step can be tried again: not among several ranks."""
        try:
            return self._sample(forward, edits)
        except (MemoryError, RuntimeError) as error:
            if self.group is None and _allocation(error):
                raise OutOfMemory(f"{type(error).__name__}: {str(error)[:200]}.") from error
            raise

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> tuple[Batch, StepTensors | None, torch.Tensor | None]:
        self.rows.apply(batch)
        if self.group is None or self.group.rank == 0:  # the others are sent the tokens
            self.shaping.seats(batch)
        if batch.idle:
            return batch, None, None
        tensors = self.builder.build(batch)
        return batch, tensors, self.model.forward(tensors.inputs)

    @torch.inference_mode()
    def _sample(self, forward: Any, edits: Sequence[Edit]) -> StepResult:
        batch, tensors, logits = forward.wait()
        count = len(batch.rows)
        if tensors is None or logits is None:
            return StepResult(np.empty((0, 1), np.int32), np.empty(0, np.int32), np.empty(0, bool))
        last = logits[:count]
        finite = torch.isfinite(last.sum(-1))
        self.shaping.apply(last, batch)
        if edits:
            finite = apply_edits(edits, last, finite)
        self.shaping.forbid_end(last, batch)
        tokens = sample(last, draws(self.rows, batch, tensors.positions_last + 1), self.argmax)
        if self.group is not None:
            self.group.broadcast(tokens)
        self._remember(batch, tokens)
        self.shaping.sampled(batch, tokens)
        result = StepResult(
            tokens=tokens.to(torch.int32).cpu().numpy()[:, None],
            num_tokens=(batch.samples & finite.cpu().numpy()).astype(np.int32),
            finite=finite.cpu().numpy(),
        )
        self._add_logprobs(result, batch, tensors, logits, tokens)
        self._add_hidden_states(result, tensors)
        return result

    @torch.inference_mode()
    def _follow(self, batch: Batch) -> None:
        assert self.group is not None
        if self._forward(batch)[1] is not None:
            tokens = torch.empty(len(batch.rows), dtype=torch.int64, device=self.rows.device)
            self._remember(batch, self.group.broadcast(tokens))

    def _remember(self, batch: Batch, tokens: torch.Tensor) -> None:
        """Where the next step's inputs find them; rows that did not sample are overwritten before they decode."""
        rows = torch.from_numpy(batch.rows.astype(np.int64)).to(self.rows.device)
        self.rows.last[rows] = tokens

    def _add_logprobs(
        self, result: StepResult, batch: Batch, tensors: StepTensors, logits: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        """Output logprobs of rows that asked, and input logprobs of the spans in this step."""
        table = self.rows
        wanted = table.logprobs[batch.rows]
        index = np.flatnonzero(batch.samples & (wanted >= 0))
        if len(index):
            rows = batch.rows[index]
            heat = np.where(table.temperature[rows] > 0, table.temperature[rows], 1).astype(np.float32)
            where = torch.from_numpy(index).to(logits.device)
            scores = logits[where] / torch.from_numpy(heat).to(logits.device)[:, None]
            ids = [table.logprob_ids.get(row, ()) for row in rows.tolist()]
            found = token_logprobs(scores, tokens[where], wanted[index].tolist(), ids)
            result.logprobs = dict(zip(index.tolist(), found, strict=True))
        for i, first, targets in tensors.logprob_spans:
            count, row = len(targets), int(batch.rows[i])
            target = torch.from_numpy(targets.astype(np.int64)).to(logits.device)
            ids = [table.logprob_ids.get(row, ())] * count
            top = [int(table.logprobs[row])] * count
            result.input_logprobs[i] = token_logprobs(logits[first : first + count], target, top, ids)

    def _add_hidden_states(self, result: StepResult, tensors: StepTensors) -> None:
        if not tensors.hidden_counts:
            return
        states = tensors.inputs.extra["hidden_states"].to("cpu", torch.float32).numpy()
        first = 0
        for i, count in tensors.hidden_counts.items():
            part = states[first : first + count]
            result.hidden_states[i] = HiddenStates(part.shape[1], part.astype("<f4").tobytes())
            first += count


def _allocation(error: Exception) -> bool:
    """Whether an allocator failed; torch's CPU allocator says so in words only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
