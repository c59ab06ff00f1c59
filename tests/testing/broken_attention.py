"""A sound attention backend, row by row, and others that each break one promise."""

from __future__ import annotations

from typing import Any

import torch


class Plain:
    """Sound: gathers a row's slots and computes the softmax in float32."""

    def plan(self, batches: tuple[Any, ...]) -> dict[int, Any]:
        return {layer: batch for batch in batches for layer in batch.group.layers}

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: Any, meta: Any) -> None:
        for pool, new in zip(kv.layer(layer), (k, v), strict=True):
            pool.flatten(0, 1)[meta[layer].slots] = new.to(pool.dtype)

    def slots(self, batch: Any, row: int) -> torch.Tensor:
        positions = torch.arange(int(batch.kv_lens[row]))
        pages = batch.page_table[row].long()[positions // batch.page_size]
        return pages * batch.page_size + positions % batch.page_size

    def attend(self, layer: int, q: torch.Tensor, kv: Any, meta: Any, **options: Any) -> torch.Tensor:
        batch, out, start = meta[layer], torch.empty_like(q, memory_format=torch.contiguous_format), 0
        for row, count in enumerate(batch.q_lens.tolist()):
            slots = self.slots(batch, row)
            k, v = (self.read(pool.flatten(0, 1)[slots]) for pool in kv.layer(layer))
            length = int(batch.kv_lens[row])
            out[start : start + count] = self.row(q[start : start + count].float(), k, v, length, **options)
            start += count
        return out

    def read(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.float()

    def row(
        self, q: Any, k: Any, v: Any, length: int, *, scale: float, window: int, soft_cap: float, sinks: Any
    ) -> Any:
        """q [count, heads, dim], k and v [slots read, kv_heads, dim]."""
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if soft_cap:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        position = torch.arange(length - q.shape[0], length)[:, None]
        key = torch.arange(k.shape[0])
        hidden = (key > position) | ((key <= position - window) if window else False)
        scores = scores.masked_fill(hidden, float("-inf"))
        if sinks is not None:
            scores = torch.cat((scores, sinks.float()[:, None, None].expand(-1, q.shape[0], 1)), -1)
        return torch.einsum("hqk,khd->qhd", torch.softmax(scores, -1)[..., : k.shape[0]], v)


class OffByALittle(Plain):
    def row(self, *args: Any, scale: float, **options: Any) -> Any:
        return super().row(*args, scale=scale * 1.001, **options)


class ReadsTheWholePage(Plain):
    """Reads the rest of its last page, which holds nothing yet, and hides it by the mask: but 0 x NaN is NaN."""

    def slots(self, batch: Any, row: int) -> torch.Tensor:
        pages = batch.page_table[row].long()[: -(-int(batch.kv_lens[row]) // batch.page_size)]
        return (pages[:, None] * batch.page_size + torch.arange(batch.page_size)).flatten()


class ReadsAnotherRow(Plain):
    """Reads a page that is not its own, cleans what is not finite away, and lets it weigh almost nothing."""

    def attend(self, layer: int, q: torch.Tensor, kv: Any, meta: Any, **options: Any) -> torch.Tensor:
        stray = kv.layer(layer)[1].flatten(0, 1)[:8].float().nan_to_num(0.0).mean()
        return super().attend(layer, q, kv, meta, **options) + stray * 1e-6


class IgnoresPageTables(Plain):
    """Takes pages to lie in order, as they do for a lone request."""

    def slots(self, batch: Any, row: int) -> torch.Tensor:
        return int(batch.page_table[row, 0]) * batch.page_size + torch.arange(int(batch.kv_lens[row]))


class OnlyPagesOfOne(Plain):
    def slots(self, batch: Any, row: int) -> torch.Tensor:
        positions = torch.arange(int(batch.kv_lens[row]))
        return batch.page_table[row].long()[positions // batch.page_size] + positions % batch.page_size


class IgnoresTheWindow(Plain):
    def row(self, *args: Any, window: int, **options: Any) -> Any:
        return super().row(*args, window=0, **options)


class IgnoresTheSoftCap(Plain):
    def row(self, *args: Any, soft_cap: float, **options: Any) -> Any:
        return super().row(*args, soft_cap=0.0, **options)


class IgnoresSinks(Plain):
    def row(self, *args: Any, sinks: Any, **options: Any) -> Any:
        return super().row(*args, sinks=None, **options)


class RoundsToHalf(Plain):
    def read(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.half().float()


class ScalesTheCache(Plain):
    """Right in the pool's own type; a cache of another is read with a scale that nobody gave."""

    def read(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.float() * (1.0 if stored.dtype == torch.float32 else 1.3)


class OnlyHeadsOf32(Plain):
    def read(self, stored: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(stored[..., :32], (0, stored.shape[-1] - 32)).float()


class MixesGroups(Plain):
    """Takes key heads in turn, where neighbours share one."""

    def row(self, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
        groups = q.shape[1] // k.shape[1]
        return super().row(q, k.repeat(1, groups, 1), v.repeat(1, groups, 1), *args, **options)


class DependsOnTheBatch(Plain):
    def attend(self, layer: int, q: torch.Tensor, kv: Any, meta: Any, **options: Any) -> torch.Tensor:
        return super().attend(layer, q, kv, meta, **options) * (1 + 1e-6 * (len(meta[layer].q_lens) - 1))


class ChangesItsInput(Plain):
    def attend(self, layer: int, q: torch.Tensor, kv: Any, meta: Any, **options: Any) -> torch.Tensor:
        options["scale"], factor = 1.0, options["scale"]
        return super().attend(layer, q.mul_(factor), kv, meta, **options)


class SpreadsNaN(Plain):
    def attend(self, layer: int, q: torch.Tensor, kv: Any, meta: Any, **options: Any) -> torch.Tensor:
        out = super().attend(layer, q, kv, meta, **options)
        return out + 0.0 * out.sum()


class ForgetsLayers(Plain):
    """Writes every layer of a group to the same memory."""

    def write_kv(self, layer: int, k: torch.Tensor, v: torch.Tensor, kv: Any, meta: Any) -> None:
        super().write_kv(0, k, v, kv, meta)


class AttendsOneKindAtATime(Plain):
    """Sound, where it declares that it takes no mixed steps."""

    def plan(self, batches: tuple[Any, ...]) -> dict[int, Any]:
        counts = batches[0].q_lens.tolist()
        assert all(n == 1 for n in counts) or all(n > 1 for n in counts), "a mixed step"
        return super().plan(batches)


class PlainLatent(Plain):
    """Sound: one key head, whose first values are the values."""

    def write_latent(self, layer: int, latent: torch.Tensor, rope: torch.Tensor, kv: Any, meta: Any) -> None:
        pool = kv.latent(layer)
        pool.flatten(0, 2)[meta[layer].slots] = torch.cat((latent, rope), 1).to(pool.dtype)

    def attend_latent(
        self, layer: int, q_latent: torch.Tensor, q_rope: torch.Tensor, kv: Any, meta: Any, *, scale: float
    ) -> torch.Tensor:
        batch, rank = meta[layer], q_latent.shape[2]
        q, outs, start = torch.cat((q_latent, q_rope), 2).float(), [], 0
        for row, count in enumerate(batch.q_lens.tolist()):
            k = self.read(kv.latent(layer).flatten(0, 1)[self.slots(batch, row)])
            options: dict[str, Any] = {"scale": scale, "window": 0, "soft_cap": 0.0, "sinks": None}
            outs.append(self.row(q[start : start + count], k, self.values(k, rank), int(batch.kv_lens[row]), **options))
            start += count
        return torch.cat(outs).to(q_latent.dtype)

    def values(self, k: torch.Tensor, rank: int) -> torch.Tensor:
        return k[..., :rank]


class TakesTheRotaryPartForValues(PlainLatent):
    def values(self, k: torch.Tensor, rank: int) -> torch.Tensor:
        return k[..., -rank:]


class RoundsLatents(PlainLatent):
    def read(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.half().float()


class ReadsAnotherLatent(PlainLatent):
    def attend_latent(self, layer: int, *args: Any, **options: Any) -> torch.Tensor:
        stray = args[2].latent(layer).flatten(0, 1)[:8].float().nan_to_num(0.0).mean()
        return super().attend_latent(layer, *args, **options) + stray * 1e-6
