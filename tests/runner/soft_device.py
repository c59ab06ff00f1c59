"""A device with memory of its own, in software: uploads and downloads copy, captures are recorded and run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sglcore.builtin.cpu_ops import CpuOps
from sglcore.contracts.attention import AttentionBatch, KVView
from sglcore.runner.sampler import gumbel


class Done:
    def __init__(self, result: Any) -> None:
        self.result = result

    def wait(self) -> Any:
        return self.result


class Recorded:
    """Runs the work again over the same inputs, and puts what it leaves where the first run left it."""

    def __init__(self, work: Callable[[], Any], left: Sequence[Any]) -> None:
        self.work, self.left = work, left
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for old, new in zip(self.left, self.work(), strict=True):
            if isinstance(old, torch.Tensor):
                old.copy_(new)


class SoftLauncher:
    """Implements `contracts.DeviceLauncher`; `copies` counts uploads and downloads."""

    def __init__(self) -> None:
        self.copies = {"up": 0, "down": 0}
        self.recorded: list[Recorded] = []

    def launch(self, work: Callable[[], Any]) -> Done:
        with torch.inference_mode():
            return Done(work())

    def upload(self, array: np.ndarray, into: torch.Tensor | None = None) -> torch.Tensor:
        self.copies["up"] += 1
        sent = torch.from_numpy(array.copy())
        return sent if into is None else into.view(-1).copy_(sent.view(-1)).view(into.shape)

    def download(self, tensors: Sequence[torch.Tensor]) -> Done:
        self.copies["down"] += 1
        return Done([tensor.clone().numpy() for tensor in tensors])

    def capture(self, work: Callable[[], Any]) -> tuple[Recorded, Any]:
        work()
        left = work()
        self.recorded.append(Recorded(work, left))
        return self.recorded[-1], left

    def close(self) -> None:
        pass


class DrawingOps(CpuOps):
    """With the fused sampler, taken step by step."""

    graph_safe = True

    def draw(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        seed: torch.Tensor,
        position: torch.Tensor,
        min_p: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hot = (temperature > 0)[:, None]
        scores = torch.where(hot, logits / temperature.clamp(min=1e-9)[:, None], logits)
        floor = scores.amax(-1, keepdim=True) + min_p.log()[:, None]
        noisy = scores.masked_fill(scores < floor, float("-inf")) + gumbel(seed, position, logits.shape[-1])
        return torch.where(hot, noisy, scores).argmax(-1), torch.isfinite(logits.sum(-1))


class RowByRow:
    """Attention that reads nothing but the batch's own tensors, as captured kernels do."""

    def plan(self, batches: tuple[AttentionBatch, ...]) -> dict[int, AttentionBatch]:
        return {layer: batch for batch in batches for layer in batch.group.layers}

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: KVView, meta: Any) -> None:
        for cache, new in zip(kv.layer(layer), (k, v), strict=True):
            cache.view(-1, *cache.shape[2:])[meta[layer].slots] = new

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        kv: KVView,
        meta: Any,
        *,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert not window and not soft_cap and sinks is None
        batch, parts, first = meta[layer], [], 0
        for row, (new, length) in enumerate(zip(batch.q_lens.tolist(), batch.kv_lens.tolist(), strict=True)):
            pages = batch.page_table[row, : -(-length // batch.page_size)].long()
            keys, values = (c[pages].reshape(-1, *c.shape[2:])[:length].transpose(0, 1) for c in kv.layer(layer))
            queries = q[first : first + new].transpose(0, 1)
            sees = torch.ones(new, length, dtype=torch.bool).tril(length - new)
            parts.append(
                torch.nn.functional.scaled_dot_product_attention(
                    queries, keys, values, attn_mask=sees, scale=scale, enable_gqa=True
                ).transpose(0, 1)
            )
            first += new
        return torch.cat(parts)
