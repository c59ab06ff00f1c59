"""ModelRunner: does what a Batch says. Implements `contracts.StepExecutor` for one rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sglcore.batch import Batch, StepResult
from sglcore.runner.inputs import InputBuilder, StepTensors
from sglcore.runner.rows import DeviceRows
from sglcore.runner.sampler import SamplingBatch, sample, token_logprobs

if TYPE_CHECKING:
    from sglcore.contracts.attention import AttentionBackend, KVView
    from sglcore.contracts.execution import Launcher, Pending, PendingStep
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
    ) -> None:
        self.model = model
        self.launcher = launcher
        self.argmax = ops.argmax
        self.rows = DeviceRows(rows, pages_per_row, groups, device)
        self.builder = InputBuilder(self.rows, groups, page_size, attention, kv)
        self._forward_pending: Pending | None = None

    def forward(self, batch: Batch) -> None:
        """Queue the forward pass. An error in it surfaces from the step's `wait`."""
        self._forward_pending = self.launcher.launch(lambda: self._forward(batch))

    def sample(self, batch: Batch, masks: Any = None) -> PendingStep:
        """Queue the sampler behind the forward pass just queued."""
        forward = self._forward_pending
        return self.launcher.launch(lambda: self._sample(forward))

    def close(self) -> None:
        """Let the device finish and free it."""
        self.launcher.close()

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> tuple[Batch, StepTensors | None, torch.Tensor | None]:
        self.rows.apply(batch)
        if batch.idle:
            return batch, None, None
        tensors = self.builder.build(batch)
        return batch, tensors, self.model.forward(tensors.inputs)

    @torch.inference_mode()
    def _sample(self, forward: Any) -> StepResult:
        batch, tensors, logits = forward.wait()
        count = len(batch.rows)
        if tensors is None or logits is None:
            return StepResult(np.empty((0, 1), np.int32), np.empty(0, np.int32), np.empty(0, bool))
        last = logits[:count]
        finite = torch.isfinite(last.sum(-1))
        tokens = sample(last, self._how(batch, tensors), self.argmax)
        rows = torch.from_numpy(batch.rows.astype(np.int64)).to(logits.device)
        self.rows.last[rows] = tokens  # rows that did not sample are overwritten before they decode
        result = StepResult(
            tokens=tokens.to(torch.int32).cpu().numpy()[:, None],
            num_tokens=(batch.samples & finite.cpu().numpy()).astype(np.int32),
            finite=finite.cpu().numpy(),
        )
        self._add_logprobs(result, batch, tensors, logits, tokens)
        return result

    def _how(self, batch: Batch, tensors: StepTensors) -> SamplingBatch:
        r, table = batch.rows, self.rows
        temperature = np.where(batch.samples, table.temperature[r], 0.0).astype(np.float32)
        drawing = temperature > 0
        filtered = drawing & ((table.top_k[r] > 0) | (table.top_p[r] < 1) | (table.min_p[r] > 0))

        def to(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(table.device)

        return SamplingBatch(
            temperature=to(temperature),
            top_k=to(table.top_k[r]),
            top_p=to(table.top_p[r]),
            min_p=to(table.min_p[r]),
            seed=to(table.seed[r]),
            position=to(tensors.positions_last + 1),
            greedy=not drawing.any(),
            filtered=bool(filtered.any()),
        )

    def _add_logprobs(
        self, result: StepResult, batch: Batch, tensors: StepTensors, logits: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        """Output logprobs of rows that asked, and input logprobs of the spans in this step."""
        wanted = self.rows.logprobs[batch.rows]
        for top in np.unique(wanted[batch.samples & (wanted >= 0)]).tolist():
            rows = np.flatnonzero(batch.samples & (wanted == top))
            index = torch.from_numpy(rows).to(logits.device)
            for i, entry in zip(rows.tolist(), token_logprobs(logits[index], tokens[index], top), strict=True):
                result.logprobs[i] = entry
        for i, first, ids in tensors.logprob_spans:
            target = torch.from_numpy(ids.astype(np.int64)).to(logits.device)
            top = int(self.rows.logprobs[batch.rows[i]])
            result.input_logprobs[i] = token_logprobs(logits[first : first + len(ids)], target, top)
