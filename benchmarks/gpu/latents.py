"""Latent attention on a card: microseconds and TB/s of latents in decoding, by backend, in one CUDA graph each.

    python benchmarks/gpu/latents.py            # triton, and flashinfer where it can be had
    python benchmarks/gpu/latents.py --sweep    # and the neighbours of the tiles that triton's table chooses

DeepSeek's latents (rank 512, rotary part 64, bfloat16), 16 and 128 heads, pages of 16. Each figure is the mean over
layers of their own memory, more than the cache holds. TFLOP/s count both products of every key.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from sglcore_plugin_triton_attention import tables
from sglcore_plugin_triton_attention.backend import TritonAttention
from sglcore_plugin_triton_attention.tables import LatentTile

from sglcore.contracts.attention import AttentionBatch
from sglcore.contracts.models import KVGroup

RANK, ROPE, PAGE = 512, 64, 16
SHAPES = [(heads, batch, context) for heads in (16, 128) for context in (1104, 4096) for batch in (1, 16, 64, 256)]
TILES = {
    16: [LatentTile(16, 16, *rest) for rest in ((32, 4, 3), (32, 8, 5), (64, 4, 3), (64, 8, 3), (16, 4, 5))],
    128: [LatentTile(64, 64, 64, 8, 3), LatentTile(64, 64, 32, 8, 3), LatentTile(32, 32, 32, 8, 5)],
}
DISTINCT = 256 << 20  # bytes that a graph goes through before it comes back to the first


class Pool:
    """Layers of latents; the part of `contracts.KVView` that is asked here."""

    def __init__(self, layers: int, pages: int) -> None:
        shape = (pages, PAGE, 1, RANK + ROPE)
        self._layers = [torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(layers)]

    def latent(self, index: int) -> torch.Tensor:
        """Of a layer."""
        return self._layers[index]


class Setting:
    """Rows of one length in shuffled pages, with one new token each."""

    def __init__(self, heads: int, rows: int, context: int) -> None:
        pages = -(-context // PAGE)
        self.bytes = rows * context * (RANK + ROPE) * 2
        self.flops = 2 * rows * context * heads * (2 * RANK + ROPE)
        self.layers = max(2, -(-DISTINCT // self.bytes))
        self.pool = Pool(self.layers, rows * pages)
        lens = np.full(rows, context, np.int32)
        ones = np.ones(rows, np.int32)
        table = torch.randperm(rows * pages, device="cuda").to(torch.int32).view(rows, pages)
        self.batch = AttentionBatch(
            q_lens=torch.from_numpy(ones).cuda(),
            kv_lens=torch.from_numpy(lens).cuda(),
            page_table=table,
            slots=torch.zeros(rows, dtype=torch.int64, device="cuda"),
            max_q_len=1,
            max_kv_len=context,
            page_size=PAGE,
            group=KVGroup(kind="latent", layers=tuple(range(self.layers)), kv_heads=1, head_dim=RANK + ROPE),
            q_lens_host=ones,
            kv_lens_host=lens,
        )
        self.q = torch.randn(rows, heads, RANK + ROPE, dtype=torch.bfloat16, device="cuda")

    def microseconds(self, backend: Any) -> float:
        """Of one layer."""
        meta = backend.plan((self.batch,))
        parts = (self.q[..., :RANK], self.q[..., RANK:])

        def work() -> None:
            for layer in range(self.layers):
                backend.attend_latent(layer, *parts, self.pool, meta, scale=0.07)

        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        if hasattr(backend, "refresh"):
            backend.refresh(meta, (self.batch,))
        for _ in range(3):
            graph.replay()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(20):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 20 / self.layers * 1000

    def told(self, name: str, us: float) -> str:
        """A figure in words."""
        return f"  {name:<34}{us:9.1f} us {self.bytes / us / 1e6:6.2f} TB/s {self.flops / us / 1e6:6.0f} TFLOP/s"


def flashinfer() -> Any:
    """The other backend; None where it cannot be had, which is told."""
    try:
        from sglcore_plugin_flashinfer import probe
        from sglcore_plugin_flashinfer.attention import FlashInferAttention

        if problem := probe.latent_problem():
            print(f"no flashinfer: {problem}")
            return None
        return FlashInferAttention()
    except ImportError as error:
        print(f"no flashinfer: {error}")
        return None


def swept(setting: Setting, heads: int) -> None:
    """The neighbours of the table's tile."""
    chosen = tables.latent_tile
    for tile in TILES[heads]:
        tables.latent_tile = lambda *shape, tile=tile: tile
        try:
            print(setting.told(f"triton {tuple(tile)}", setting.microseconds(TritonAttention())))
        except Exception as error:  # a tile that does not fit the card
            print(f"  triton {tuple(tile)}: {type(error).__name__}: {str(error)[:80]}")
        finally:
            tables.latent_tile = chosen


@torch.inference_mode()
def main() -> None:
    """Every shape, one line a backend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    other = flashinfer()
    for heads, batch, context in SHAPES:
        setting = Setting(heads, batch, context)
        print(f"{heads} heads, {batch} rows of {context}")
        print(setting.told("triton", setting.microseconds(TritonAttention())))
        if other is not None:
            print(setting.told("flashinfer", setting.microseconds(other)))
        if options.sweep:
            swept(setting, heads)
        del setting
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
