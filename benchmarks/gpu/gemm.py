"""Times the small-batch products of the CUDA platform against cuBLAS and prints the lines of its table.

    python benchmarks/gpu/gemm.py --json gemm.json            # all shapes and rows, under 90 s on an H200
    python benchmarks/gpu/gemm.py --only llama --rows 1 16    # some
    python benchmarks/gpu/gemm.py --pdl                       # also the winner with programmatic dependent launch

Each figure is microseconds a product: a CUDA graph of many products over distinct weights, about a gigabyte or more of
them so that the level-2 cache does not help, best of several replays. cuBLAS and the candidates run in the same process
on the same weights; every candidate's result is compared with cuBLAS's first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
import triton
from sglcore_plugin_cuda.kernels.gemm import make_counters, small_linear
from sglcore_plugin_cuda.kernels.gemm_table import BUCKETS, GemmConfig, config_for, sums

SHAPES = {  # name: (out, in)
    "llama-8b qkv": (6144, 4096),
    "llama-8b o": (4096, 4096),
    "llama-8b gate-up": (28672, 4096),
    "llama-8b down": (4096, 14336),
    "llama-8b lm_head": (128256, 4096),
    "qwen3-30b qkv": (5120, 2048),
    "qwen3-30b o": (2048, 4096),
    "qwen3-30b gate": (128, 2048),
    "qwen3-30b lm_head": (151936, 2048),
    "qwen3-0.6b qkv": (4096, 1024),
    "qwen3-0.6b o": (1024, 2048),
    "qwen3-0.6b gate-up": (6144, 1024),
    "qwen3-0.6b down": (1024, 3072),
    "qwen3-0.6b lm_head": (151936, 1024),
}
ONE_ROW = [
    *(sums(*c) for c in ((8, 512, 4, 4), (8, 512, 4, 1), (16, 256, 4, 3), (16, 256, 4, 1), (16, 1024, 8, 4))),
    *(sums(*c) for c in ((16, 1024, 8, 1), (8, 1024, 8, 3), (4, 1024, 4, 4), (4, 1024, 4, 1), (8, 1024, 4, 1))),
    *(sums(*c) for c in ((8, 512, 4, 4, 2), (16, 512, 8, 3, 2), (16, 512, 4, 1, 4))),
    *(GemmConfig(*c) for c in ((32, 256, 4, 5), (64, 128, 4, 5))),
]
TO_16 = [
    *(GemmConfig(*c) for c in ((16, 256, 4, 5), (32, 256, 4, 5), (32, 128, 4, 6), (64, 128, 4, 5), (64, 64, 4, 6))),
    *(GemmConfig(*c) for c in ((128, 64, 4, 5), (64, 256, 8, 3), (128, 128, 8, 4))),
    *(GemmConfig(*c) for c in ((64, 128, 4, 5, 2), (64, 128, 4, 4, 4), (128, 64, 4, 5, 4), (32, 256, 4, 4, 2))),
]
TO_16 += [GemmConfig(*c) for c in ((16, 128, 4, 4, 4), (16, 256, 4, 3, 4), (16, 128, 4, 4, 8), (32, 128, 4, 4, 8))]
ONE_ROW += [sums(*c) for c in ((4, 512, 4, 1), (4, 512, 2, 1, 2), (2, 1024, 4, 1), (4, 512, 2, 1, 4))]
TO_64 = [
    *(GemmConfig(*c) for c in ((64, 64, 4, 3), (64, 64, 4, 5), (64, 128, 4, 4), (128, 64, 4, 4), (128, 64, 8, 4))),
    *(GemmConfig(*c) for c in ((128, 128, 8, 3), (64, 128, 4, 4, 2), (64, 64, 4, 5, 2), (128, 64, 4, 4, 2))),
    *(GemmConfig(*c) for c in ((128, 64, 4, 4, 4), (128, 128, 8, 3, 4), (64, 128, 4, 4, 4))),
]
TO_64 += [GemmConfig(*c) for c in ((16, 128, 4, 4, 4), (16, 128, 4, 4, 8), (32, 128, 4, 4, 8), (32, 64, 4, 4, 8))]
BYTES = 1 << 30  # of distinct weights in a graph, at least
MOST_LAYERS, LAUNCHES, REPLAYS = 32, 32, 5
WIN = 0.98  # a kernel must beat cuBLAS by this much to enter the table
TOLERANCE = 2e-2  # of the largest value: bfloat16's rounding of a result and of cuBLAS's

Product = Callable[[torch.Tensor], torch.Tensor]  # weight -> result


@dataclass
class Row:
    """One shape at one batch: microseconds by config, as written in the table, and what they come to."""

    name: str
    out: int
    into: int
    rows: int
    cublas: float
    times: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # config -> why it was not timed
    best: str = "None"
    best_us: float = 0.0
    pdl_us: float | None = None

    def rate(self, us: float) -> float:
        """TB/s of weights."""
        return self.out * self.into * 2 / us * 1e-6


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    if not torch.cuda.is_available():
        raise SystemExit("gemm.py needs a CUDA GPU; torch finds none.")
    end = time.monotonic() + options.seconds
    chosen = {name: shape for name, shape in SHAPES.items() if options.only in name}
    card = Card(max(out * into * layers(out, into) for out, into in chosen.values()))
    found = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    print(f"{'shape':20} {'rows':>4} {'cuBLAS us':>9} {'TB/s':>5} {'best us':>8} {'TB/s':>5} {'gain':>6}  config")
    for name, (out, into) in chosen.items():
        for rows in options.rows:
            if time.monotonic() > end:
                print(f"out of time before {name}, {rows} rows: raise --seconds, or name fewer with --only and --rows")
                break
            found.append(card.row(name, out, into, rows, options.pdl))
            tell(found[-1])
    emit(found)
    if options.json:
        told = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
        options.json.write_text(json.dumps({**told, "rows": [asdict(row) for row in found]}, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(BUCKETS), choices=BUCKETS)
    parser.add_argument("--only", default="", help="shapes whose name holds this")
    parser.add_argument("--pdl", action="store_true", help="time the winner with programmatic dependent launch too")
    parser.add_argument("--seconds", type=float, default=85.0, help="start no further batch after so many")
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser.parse_args()


def layers(out: int, into: int) -> int:
    """Distinct weights of this shape in a graph."""
    return max(2, min(MOST_LAYERS, -(-BYTES // (out * into * 2))))


def candidates(rows: int, out: int, into: int) -> list[GemmConfig]:
    """What is tried for a shape: a short list by the number of rows, and what the table says now."""
    listed = ONE_ROW if rows == 1 else TO_16 if rows <= 16 else TO_64
    present = config_for(rows, out, into)
    return listed if present is None or present in listed else [present, *listed]


class Card:
    """The weights, one buffer that all shapes cut theirs from, and the clock."""

    def __init__(self, elements: int) -> None:
        self.buffer = torch.empty(elements, dtype=torch.bfloat16, device="cuda").normal_(std=0.02)
        self.counters = make_counters(self.buffer.device)

    def row(self, name: str, out: int, into: int, rows: int, pdl: bool) -> Row:
        """All candidates at one shape and batch."""
        count = layers(out, into)
        weights = list(self.buffer[: count * out * into].view(count, out, into))
        x = torch.randn(rows, into, device="cuda").to(torch.bfloat16)
        plain: Product = lambda weight: F.linear(x, weight)  # noqa: E731
        row = Row(name, out, into, rows, cublas=self.time(plain, weights))
        right, best = plain(weights[0]), None
        for config in candidates(rows, out, into):
            text = spelled(config)
            problem = config.problem(rows, out, into) or self.wrong(self.product(x, config), weights[0], right)
            if problem:
                row.refused[text] = problem
                continue
            row.times[text] = self.time(self.product(x, config), weights)
            if best is None or row.times[text] < row.best_us:
                best, row.best, row.best_us = config, text, row.times[text]
        if pdl and best is not None:
            early = self.product(x, best, pdl=True)
            row.pdl_us = None if self.wrong(early, weights[0], right) else self.time(early, weights)
        return row

    def product(self, x: torch.Tensor, config: GemmConfig, *, pdl: bool = False) -> Product:
        """The kernel with a config."""
        return lambda weight: small_linear(x, weight, None, config, self.counters, pdl=pdl)

    def wrong(self, product: Product, weight: torch.Tensor, right: torch.Tensor) -> str | None:
        """Why a candidate may not be timed: it cannot run here, or its result is not cuBLAS's."""
        try:
            error = (product(weight).float() - right.float()).abs().max() / right.float().abs().max()
        except (triton.runtime.errors.OutOfResources, triton.compiler.errors.CompilationError) as problem:
            return f"{type(problem).__name__}: {problem}"
        return f"wrong by {float(error):.1e}" if not float(error) < TOLERANCE else None

    def time(self, product: Product, weights: list[torch.Tensor]) -> float:
        """Microseconds a product."""
        launches = max(len(weights), LAUNCHES if weights[0].numel() < 1 << 28 else 4)
        product(weights[0])  # compiles, and lets cuBLAS take its workspace
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for launch in range(launches):
                product(weights[launch % len(weights)])
        graph.replay()
        best = float("inf")
        for _ in range(REPLAYS):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end))
        return best * 1e3 / launches


def spelled(config: GemmConfig) -> str:
    """A config as the table writes it."""
    numbers = [config.block_n, config.block_k, config.warps, config.stages]
    numbers += [config.split] if config.split > 1 else []
    return f"{'GemmConfig' if config.dot else 'sums'}({', '.join(map(str, numbers))})"


def tell(row: Row) -> None:
    """A line of the printed table."""
    if not row.times:
        print(f"{row.name:20} {row.rows:4} {row.cublas:9.1f} {row.rate(row.cublas):5.2f}  no candidate ran")
        return
    early = "" if row.pdl_us is None else f"  early launch {row.pdl_us:.1f} us"
    print(
        f"{row.name:20} {row.rows:4} {row.cublas:9.1f} {row.rate(row.cublas):5.2f} {row.best_us:8.1f} "
        f"{row.rate(row.best_us):5.2f} {row.cublas / row.best_us - 1:+6.1%}  {row.best}{early}",
        flush=True,
    )


def emit(found: list[Row]) -> None:
    """Lines for TABLE of gemm_table.py: what beat cuBLAS, else None; only shapes that were timed at every batch."""
    print("\n# for TABLE")
    for out, into in dict.fromkeys((row.out, row.into) for row in found):
        line = {row.rows: row for row in found if (row.out, row.into) == (out, into)}
        if all(rows in line for rows in BUCKETS):
            wins = [r.best if r.times and r.best_us < WIN * r.cublas else "None" for r in map(line.get, BUCKETS) if r]
            print(f"    ({out}, {into}): ({', '.join(wins)}),")
    wrong = {text: why for row in found for text, why in row.refused.items() if "wrong" in why}
    for text, why in wrong.items():
        print(f"# {text} is {why}")


if __name__ == "__main__":
    main()
