"""The Triton attention backend on a card: microseconds, TB/s of keys and values, TFLOP/s; and a sweep of its tables.

    python benchmarks/gpu/attention.py            # what the tables choose, and the best of the neighbours
    python benchmarks/gpu/attention.py --plain    # the tables alone
    python benchmarks/gpu/attention.py --kv float8_e4m3fn  # with keys and values in eight bits

Llama-3.1-8B's heads (32 query, 8 key, of 128, bfloat16), pages of 16. Each figure is the mean over layers of their own
memory, more than the cache holds, in one CUDA graph. TFLOP/s count the causal half.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from sglcore_plugin_triton_attention import tables
from sglcore_plugin_triton_attention.backend import TritonAttention
from sglcore_plugin_triton_attention.tables import DecodeTile, PrefillTile

from sglcore.contracts.attention import AttentionBatch
from sglcore.contracts.models import KVGroup

HEADS, KV_HEADS, DIM, PAGE = 32, 8, 128, 16
DECODES = [(batch, context) for context in (1104, 4096) for batch in (1, 16, 64, 256)]
DECODE_TILES = [DecodeTile(16, *rest) for rest in ((64, 4, 3), (64, 4, 7), (32, 4, 5), (32, 4, 9), (128, 8, 5))]
PREFILL_TILES = [
    PrefillTile(*sizes)
    for sizes in ((128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 5), (64, 64, 4, 3), (64, 128, 4, 3))
]
DISTINCT = 256 << 20  # bytes that a graph goes through before it comes back to the first
SCALE = DIM**-0.5


class Pool:
    """Layers of keys and values; implements `contracts.KVView`."""

    def __init__(self, layers: int, pages: int, kept: torch.dtype) -> None:
        shape = (pages, PAGE, KV_HEADS, DIM)
        self._layers = [(filled(shape, kept), filled(shape, kept)) for _ in range(layers)]

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) of a layer."""
        return self._layers[index]


def filled(shape: tuple[int, ...], kept: torch.dtype) -> torch.Tensor:
    """Normal values."""
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda").to(kept)


class Setting:
    """Rows of one length in shuffled pages, ready to attend: `tokens` new ones a row, `context` in all."""

    def __init__(self, rows: int, tokens: int, context: int, kept: torch.dtype) -> None:
        self.rows, self.tokens, self.context = rows, tokens, context
        pages = -(-context // PAGE)
        self.bytes = 2 * rows * context * KV_HEADS * DIM * kept.itemsize
        self.layers = max(1, min(32, -(-DISTINCT // self.bytes)))
        self.pool = Pool(self.layers, rows * pages, kept)
        self.backend = TritonAttention()
        self.q = torch.randn(rows * tokens, HEADS, DIM, dtype=torch.bfloat16, device="cuda")
        table = torch.randperm(rows * pages, device="cuda", dtype=torch.int32).view(rows, pages)
        position = torch.arange(context - tokens, context, device="cuda")
        slots = table[:, position // PAGE].long() * PAGE + position % PAGE
        lengths = torch.full((2, rows), tokens, dtype=torch.int32)
        lengths[1] = context
        q_lens, kv_lens = lengths.cuda()
        group = KVGroup(layers=tuple(range(self.layers)), kv_heads=KV_HEADS, head_dim=DIM)
        self.batch = AttentionBatch(
            q_lens=q_lens,
            kv_lens=kv_lens,
            page_table=table,
            slots=slots.view(-1),
            max_q_len=tokens,
            max_kv_len=context,
            page_size=PAGE,
            group=group,
            q_lens_host=lengths[0].numpy(),
            kv_lens_host=lengths[1].numpy(),
        )

    def attend(self) -> float:
        """Microseconds of one layer's attention."""
        meta = self.backend.plan((self.batch,))
        return timed(lambda i: self.backend.attend(i, self.q, self.pool, meta, scale=SCALE), self.layers)

    def write(self) -> float:
        """Microseconds of one layer's `rope_write`."""
        meta = self.backend.plan((self.batch,))
        tokens = self.rows * self.tokens
        qkv = torch.randn(tokens, HEADS + 2 * KV_HEADS, DIM, dtype=torch.bfloat16, device="cuda")
        cos = torch.randn(tokens, DIM // 2, device="cuda")
        return timed(lambda i: self.backend.rope_write(i, qkv, cos, cos, HEADS, self.pool, meta), self.layers)


def timed(work: Callable[[int], Any], layers: int, seconds: float = 0.02) -> float:
    """Microseconds of `work` a layer, by replays of a graph of all layers."""
    for layer in range(layers):
        work(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(layers):
            work(layer)
    graph.replay()
    once = replays(graph, 1)
    count = max(3, min(200, int(seconds * 1e6 / once)))
    return min(replays(graph, count) for _ in range(3)) / layers


def replays(graph: torch.cuda.CUDAGraph, count: int) -> float:
    """Microseconds a replay."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / count


def best(setting: Setting, name: str, tiles: list[Any]) -> tuple[float, Any]:
    """(microseconds, tile) of the fastest neighbour in the table `name`."""
    chosen, found = getattr(tables, name), []
    for tile in tiles:
        setattr(tables, name, lambda *shape, tile=tile: tile)
        try:
            found.append((setting.attend(), tile))
        except Exception as error:  # a tile that does not fit is an answer too
            print(f"  {tile}: {type(error).__name__} {str(error)[:100]}")
    setattr(tables, name, chosen)
    return min(found, key=lambda pair: pair[0])


def resident(setting: Setting) -> tuple[float, str]:
    """(microseconds, words) of the best number of resident programs, and of a merge by a second kernel."""
    kept, chosen, found = tables.RESIDENT, tables.decode_tile, []
    for number in (1, 2, 4, 6):
        tables.RESIDENT = number
        found.append((setting.attend(), f"RESIDENT {number}"))
    tables.RESIDENT = kept
    tables.decode_tile = lambda *shape: chosen(*shape)._replace(fused=False)  # type: ignore[assignment]
    found.append((setting.attend(), "merge by a second kernel"))
    tables.decode_tile = chosen
    return min(found)


def decodes(plain: bool, kept: torch.dtype) -> None:
    """A line a decode shape."""
    print("decode: batch context | us TB/s rope_write us | best neighbours")
    for rows, context in DECODES:
        setting = Setting(rows, 1, context, kept)
        us = setting.attend()
        line = f"{rows:5} {context:6} | {us:8.1f} {setting.bytes / us / 1e6:5.2f} {setting.write():6.1f}"
        if not plain:
            tile_us, tile = best(setting, "decode_tile", DECODE_TILES)
            parts_us, parts = resident(setting)
            line += f" | {tile_us:8.1f} {tuple(tile)} | {parts_us:8.1f} {parts}"
        print(line, flush=True)
        del setting
        torch.cuda.empty_cache()


def prefills(plain: bool, kept: torch.dtype) -> None:
    """A line a prefill shape."""
    print("prefill: rows new context | us TFLOP/s rope_write us | best neighbour")
    for rows, tokens, context in ((1, 4096, 4096), (4, 4096, 4096), (4, 1024, 1024), (1, 2048, 16384), (8, 128, 2176)):
        setting = Setting(rows, tokens, context, kept)
        us = setting.attend()
        flops = 4 * rows * HEADS * DIM * tokens * (context - tokens + (tokens + 1) / 2)
        line = f"{rows:4} {tokens:5} {context:6} | {us:8.1f} {flops / us / 1e6:6.0f} {setting.write():6.1f}"
        if not plain:
            tile_us, tile = best(setting, "prefill_tile", PREFILL_TILES)
            line += f" | {tile_us:8.1f} {flops / tile_us / 1e6:6.0f} {tuple(tile)}"
        print(line, flush=True)
        del setting


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", action="store_true", help="the tables' choices alone")
    parser.add_argument("--kv", default="bfloat16", help="torch's name of the type of keys and values")
    given = parser.parse_args()
    kept = getattr(torch, given.kv)
    start = time.perf_counter()
    print(torch.cuda.get_device_name(), torch.__version__)
    decodes(given.plain, kept)
    prefills(given.plain, kept)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
