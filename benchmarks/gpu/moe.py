"""Time of a layer of experts on a GPU, in Qwen3-30B-A3B's sizes and bfloat16, by number of tokens.

    python benchmarks/gpu/moe.py [--sweep] [--tokens 1 4 16 ...] [--seconds 55] [--pdl] [--json FILE]

Several layers of distinct weights follow one another in one CUDA graph, so that the L2 cache holds no weight from the
replay before; routing is uniform and another in each layer. Prints microseconds a layer, terabytes a second of the
weights of the experts that are hit, and teraflops. `--sweep` times candidates of the gate-up and of the down
product on their own and prints the best few beside the table's, until the time is up.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from sglcore_plugin_cuda.kernels.moe import fused_moe
from sglcore_plugin_cuda.kernels.moe_align import align
from sglcore_plugin_cuda.kernels.moe_direct import direct_down, direct_up
from sglcore_plugin_cuda.kernels.moe_grouped import grouped, sum_terms
from sglcore_plugin_cuda.kernels.moe_route import route
from sglcore_plugin_cuda.kernels.moe_table import Choice, Direct, Grouped, choose

EXPERTS, TOP, HIDDEN, INNER = 128, 8, 2048, 768
TOKENS = (1, 4, 16, 64, 256, 2048, 8192)
LAYERS = 4
ROUNDS, REPLAYS = 3, 10
SHOWN = 3
DIRECTS = [Direct(*c) for c in product((4, 8, 16), (512, 1024, 2048), (2, 4, 8), (1, 3))]
FEW = [Grouped(*c, True) for c in product((16, 32), (64, 128), (64, 128), (1, 4), (4, 8), (3, 5))]
MANY = [Grouped(*c, False) for c in product((64, 128), (128, 256), (64,), (1, 8), (4, 8), (3, 4))]
Config = Direct | Grouped


@dataclass
class Layer:
    """One layer's weights, and what a router made of its tokens."""

    gate_up: torch.Tensor
    down: torch.Tensor
    x: torch.Tensor
    weights: torch.Tensor
    experts: torch.Tensor


def layers(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(gate and up, down) of each layer."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0, 0.02)

    return [(normal(EXPERTS, 2 * INNER, HIDDEN), normal(EXPERTS, HIDDEN, INNER)) for _ in range(count)]


def routed(weights: list[tuple[torch.Tensor, torch.Tensor]], tokens: int) -> list[Layer]:
    """Every layer with tokens of its own and a uniform routing."""
    found = []
    for gate_up, down in weights:
        x = torch.randn(tokens, HIDDEN, dtype=torch.bfloat16, device="cuda")
        shares, experts = route(torch.randn(tokens, EXPERTS, device="cuda"), TOP, True)
        found.append(Layer(gate_up, down, x, shares, experts))
    return found


def time_of(work: Callable[[Layer], Any], stack: list[Layer]) -> float:
    """Microseconds a layer, the best of some rounds of replays."""
    work(stack[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in stack:
            work(layer)
    graph.replay()
    best = float("inf")
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(REPLAYS):
            graph.replay()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) * 1000 / REPLAYS / len(stack))
    return best


def rates(micros: float, stack: list[Layer], share: float = 1.0) -> tuple[float, float]:
    """(TB/s of weights, TFLOP/s); share: of a layer's three matrices."""
    hit = sum(len(layer.experts.unique()) for layer in stack) / len(stack)
    size = hit * 3 * HIDDEN * INNER * 2 * share
    work = stack[0].experts.numel() * 6 * HIDDEN * INNER * share
    return size / micros / 1e6, work / micros / 1e6


def whole(stack: list[Layer], pdl: bool) -> dict[str, float]:
    """The layer as it is, and its parts."""
    tokens = stack[0].x.shape[0]
    choice = choose(tokens * TOP, EXPERTS)

    def everything(layer: Layer) -> torch.Tensor:
        return fused_moe(layer.x, layer.gate_up, layer.down, layer.weights, layer.experts, pdl=pdl)

    micros = time_of(everything, stack)
    bandwidth, flops = rates(micros, stack)
    result = {"tokens": tokens, "us": micros, "TB/s": bandwidth, "TFLOP/s": flops}
    result["up us"] = time_of(lambda layer: up(layer, choice.up, pdl), stack)
    result["down us"] = time_of(lambda layer: down(layer, choice.down, pdl), stack)
    if isinstance(choice.up, Grouped):
        block = choice.up.block_m
        result["sort us"] = time_of(lambda layer: align(layer.experts, EXPERTS, block, pdl=pdl), stack)
        terms = torch.empty(tokens * TOP, HIDDEN, dtype=torch.bfloat16, device="cuda")
        result["sum us"] = time_of(lambda layer: sum_terms(terms, tokens, pdl=pdl), stack)
    logits = torch.randn(tokens, EXPERTS, dtype=torch.bfloat16, device="cuda")
    result["route us"] = time_of(lambda layer: route(logits, TOP, True, pdl=pdl), stack)
    return result


SORTED: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, int]] = {}


def pairs_of(layer: Layer, block: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sorted once a layer and size of block, outside of what is timed."""
    key = (id(layer), block)
    if key not in SORTED:
        SORTED[key] = align(layer.experts, EXPERTS, block)
    return SORTED[key]


def up(layer: Layer, config: Config, pdl: bool) -> torch.Tensor:
    """The gate-up product alone."""
    if isinstance(config, Direct):
        return direct_up(layer.x, layer.gate_up, layer.experts, config, pdl=pdl)
    pairs = pairs_of(layer, config.block_m)
    return grouped(layer.x, layer.gate_up, layer.weights, pairs, config, gated=True, pdl=pdl)


def down(layer: Layer, config: Config, pdl: bool) -> torch.Tensor:
    """The down product alone."""
    inner = inner_of(layer)
    if isinstance(config, Direct):
        return direct_down(inner, layer.down, layer.weights, layer.experts, config, pdl=pdl)
    return grouped(inner, layer.down, layer.weights, pairs_of(layer, config.block_m), config, gated=False, pdl=pdl)


INNERS: dict[int, torch.Tensor] = {}


def inner_of(layer: Layer) -> torch.Tensor:
    """Some input of the down product, made once a size."""
    rows = layer.experts.numel()
    if rows not in INNERS:
        INNERS[rows] = torch.randn(rows, INNER, dtype=torch.bfloat16, device="cuda")
    return INNERS[rows]


def sweep(stack: list[Layer], until: float, pdl: bool) -> list[dict[str, Any]]:
    """The best candidates of both products for one number of tokens; stops where the time is up."""
    tokens = stack[0].x.shape[0]
    table: Choice = choose(tokens * TOP, EXPERTS)
    mean = tokens * TOP / EXPERTS
    candidates: list[Config] = [*FEW] if mean <= 24 else [*MANY]
    if tokens <= 8:
        candidates = [*DIRECTS, *(c for c in FEW if c.block_m == 16)]
    found = []
    for name, run, now, share in (("up", up, table.up, 2 / 3), ("down", down, table.down, 1 / 3)):
        begun, left = time.monotonic(), max(0.0, until - time.monotonic()) / (2 if name == "up" else 1)
        times: list[tuple[float, Config]] = []
        for config in [now, *(c for c in candidates if c != now)]:
            if times and time.monotonic() - begun > left:
                break
            for layer in stack:
                if isinstance(config, Grouped):
                    pairs_of(layer, config.block_m)
            try:
                times.append((time_of(lambda layer, c=config, r=run: r(layer, c, pdl), stack), config))
            except Exception as error:
                print(f"  {config}: {type(error).__name__}")
        first = times[0][0]
        for micros, config in sorted(times, key=lambda pair: pair[0])[:SHOWN]:
            bandwidth, flops = rates(micros, stack, share)
            mark = " (table)" if config == now else ""
            print(f"  {name:4} {micros:8.1f} us {bandwidth:5.2f} TB/s {flops:6.0f} TFLOP/s {config}{mark}")
            found.append({"tokens": tokens, "product": name, "us": micros, "table us": first, "config": str(config)})
        print(f"  {name:4} {len(times)} of {len(candidates) + 1} candidates timed; the table's: {first:.1f} us")
    return found


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--seconds", type=float, default=55.0)
    parser.add_argument("--pdl", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    begun = time.monotonic()
    torch.manual_seed(0)
    weights = layers(LAYERS)
    rows: list[dict[str, Any]] = []
    for number, tokens in enumerate(arguments.tokens):
        SORTED.clear()
        INNERS.clear()
        stack = routed(weights, tokens)
        for layer in stack:
            choice = choose(tokens * TOP, EXPERTS).up
            if isinstance(choice, Grouped):
                pairs_of(layer, choice.block_m)
            inner_of(layer)
        rows.append(whole(stack, arguments.pdl))
        print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
        if arguments.sweep:
            left = begun + arguments.seconds - time.monotonic()
            until = time.monotonic() + left / (len(arguments.tokens) - number)
            rows += sweep(stack, until, arguments.pdl)
        if time.monotonic() - begun > arguments.seconds:
            print("time is up")
            break
    print(f"{torch.cuda.get_device_name()}: {time.monotonic() - begun:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
