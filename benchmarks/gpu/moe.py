"""Time of a layer of experts on a GPU, in Qwen3-30B-A3B's sizes and bfloat16, by number of tokens.

    python benchmarks/gpu/moe.py [--sweep] [--tokens 1 4 16 ...] [--seconds 55] [--pdl] [--json FILE]

Several layers of distinct weights follow one another in one CUDA graph, so that the L2 cache holds no weight from the
replay before; routing is uniform and another in each layer. Prints microseconds a layer, terabytes a second of the
weights of the experts that are hit, and teraflops. `--sweep` times candidates of the gate-up and of the down
product on their own and prints the best few beside the table's, until the time is up; the products by TMA come first,
and their best pair for each size of block is timed as a whole layer too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from sglcore_plugin_cuda.kernels.moe import fused_moe
from sglcore_plugin_cuda.kernels.moe_align import align
from sglcore_plugin_cuda.kernels.moe_direct import direct_down, direct_up
from sglcore_plugin_cuda.kernels.moe_grouped import grouped, sum_terms
from sglcore_plugin_cuda.kernels.moe_route import route
from sglcore_plugin_cuda.kernels.moe_table import LARGE, Choice, Direct, Grouped, Wide, choose
from sglcore_plugin_cuda.kernels.moe_wide import suits, wide_down, wide_up

EXPERTS, TOP, HIDDEN, INNER = 128, 8, 2048, 768
TOKENS = (1, 4, 16, 64, 256, 2048, 8192)
LAYERS = 4
ROUNDS, REPLAYS = 3, 10
SHOWN = 3
DIRECTS = [Direct(*c) for c in product((4, 8, 16), (512, 1024, 2048), (2, 4, 8), (1, 3))]
FEW = [Grouped(*c, True) for c in product((16, 32), (64, 128), (64, 128), (1, 4), (4, 8), (3, 5))]
MANY = [Grouped(*c, False) for c in product((64, 128), (128, 256), (64,), (1, 8), (4, 8), (3, 4))]
# From so many rows of an expert on, the promising ones first.
WIDE_FROM = 24
WIDE_UP = [
    Wide(128, 256, 64, 4, 8, 4),
    Wide(64, 256, 64, 4, 4, 4),
    Wide(128, 128, 64, 4, 8, 3),
    Wide(64, 256, 32, 4, 4, 5),
    Wide(128, 256, 64, 1, 8, 3),
    Wide(128, 128, 64, 4, 4, 3),
    Wide(256, 128, 64, 2, 8, 4),
    Wide(64, 256, 64, 1, 4, 3),
    Wide(128, 256, 64, 8, 8, 4),
    Wide(64, 128, 64, 4, 4, 3),
    Wide(64, 256, 64, 8, 4, 4),
    Wide(128, 128, 64, 8, 8, 4),
    Wide(64, 128, 64, 1, 8, 4),
    Wide(128, 256, 32, 4, 8, 5),
    Wide(64, 128, 128, 4, 4, 3),
    Wide(256, 128, 64, 1, 8, 3),
]
WIDE_DOWN = [
    Wide(128, 256, 64, 4, 8, 3, True),
    Wide(64, 256, 64, 4, 4, 4),
    Wide(128, 256, 64, 4, 8, 4),
    Wide(128, 128, 64, 4, 8, 3),
    Wide(64, 256, 32, 4, 4, 5),
    Wide(128, 128, 64, 4, 8, 4, True),
    Wide(64, 256, 64, 4, 4, 4, True),
    Wide(128, 128, 64, 4, 4, 3),
    Wide(256, 128, 64, 2, 8, 3, True),
    Wide(64, 128, 64, 4, 4, 3),
    Wide(128, 256, 64, 1, 8, 3),
    Wide(64, 256, 64, 1, 4, 3),
]
Config = Direct | Grouped | Wide


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


def table_of(layer: Layer) -> Choice:
    """What the table takes for a layer."""
    pairs = layer.experts.numel()
    return choose(pairs, EXPERTS, wide=suits(layer.x, layer.gate_up, layer.down, pairs))


def everything(layer: Layer, choice: Choice | None, pdl: bool) -> torch.Tensor:
    """The layer with these tiles, or the table's."""
    return fused_moe(layer.x, layer.gate_up, layer.down, layer.weights, layer.experts, pdl=pdl, choice=choice)


def whole(stack: list[Layer], pdl: bool) -> dict[str, float]:
    """The layer as it is, and its parts."""
    tokens = stack[0].x.shape[0]
    choice = table_of(stack[0])
    micros = time_of(lambda layer: everything(layer, None, pdl), stack)
    bandwidth, flops = rates(micros, stack)
    result = {"tokens": tokens, "us": micros, "TB/s": bandwidth, "TFLOP/s": flops}
    result["up us"] = time_of(lambda layer: up(layer, choice.up, pdl), stack)
    result["down us"] = time_of(lambda layer: down(layer, choice.down, pdl), stack)
    if not isinstance(choice.up, Direct):
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
    if isinstance(config, Wide):
        return wide_up(layer.x, layer.gate_up, TOP, pairs, config, pdl=pdl)
    return grouped(layer.x, layer.gate_up, layer.weights, pairs, config, gated=True, pdl=pdl)


def down(layer: Layer, config: Config, pdl: bool) -> torch.Tensor:
    """The down product alone."""
    if isinstance(config, Direct):
        return direct_down(inner_of(layer, config), layer.down, layer.weights, layer.experts, config, pdl=pdl)
    inner, pairs = inner_of(layer, config), pairs_of(layer, config.block_m)
    if isinstance(config, Wide):
        return wide_down(inner, layer.down, layer.weights, pairs, config, pdl=pdl)
    return grouped(inner, layer.down, layer.weights, pairs, config, gated=False, pdl=pdl)


INNERS: dict[int, torch.Tensor] = {}


def inner_of(layer: Layer, config: Config) -> torch.Tensor:
    """Some input of the down product, made once a size."""
    rows = layer.experts.numel()
    if isinstance(config, Wide):
        rows = len(pairs_of(layer, config.block_m)[0])
    if rows not in INNERS:
        INNERS[rows] = torch.randn(rows, INNER, dtype=torch.bfloat16, device="cuda")
    return INNERS[rows]


def candidates_of(tokens: int, wide: list[Wide], suited: bool) -> list[Config]:
    """What to time for so many tokens, in order."""
    if tokens <= 8:
        return [*DIRECTS, *(c for c in FEW if c.block_m == 16)]
    mean = tokens * TOP / EXPERTS
    if mean <= WIDE_FROM:
        return [*FEW]
    return [*(wide if suited else ()), *MANY]


def timed(
    run: Callable[..., Any], configs: list[Config], stack: list[Layer], until: float, pdl: bool
) -> list[tuple[float, Config]]:
    """(microseconds a layer, candidate) of the first and of as many more as there is time for."""
    times: list[tuple[float, Config]] = []
    for config in configs:
        if times and time.monotonic() > until:
            break
        try:
            for layer in stack:  # made before the graph is captured
                if not isinstance(config, Direct):
                    pairs_of(layer, config.block_m)
                inner_of(layer, config)
            times.append((time_of(partial(run, config=config, pdl=pdl), stack), config))
        except Exception as error:
            print(f"  {config}: {type(error).__name__}: {str(error)[:200]}")
    return times


def sweep(stack: list[Layer], until: float, pdl: bool) -> list[dict[str, Any]]:
    """The best candidates of both products for one number of tokens; stops where the time is up."""
    tokens = stack[0].x.shape[0]
    table = table_of(stack[0])
    suited = suits(stack[0].x, stack[0].gate_up, stack[0].down, tokens * TOP)
    large: tuple[Config, Config] = (LARGE.up, LARGE.down)
    found: list[dict[str, Any]] = []
    best: dict[tuple[int, str], tuple[float, Wide]] = {}
    for name, run, now, old, wide, share in (
        ("up", up, table.up, large[0], WIDE_UP, 2 / 3),
        ("down", down, table.down, large[1], WIDE_DOWN, 1 / 3),
    ):
        left = max(0.0, until - time.monotonic()) / (2 if name == "up" else 1)
        first = [now, old] if isinstance(now, Wide) else [now]  # beside what it would replace
        configs = list(dict.fromkeys([*first, *candidates_of(tokens, wide, suited)]))
        times = timed(run, configs, stack, time.monotonic() + left, pdl)
        for micros, config in sorted(times, key=lambda pair: pair[0]):
            if isinstance(config, Wide):
                best.setdefault((config.block_m, name), (micros, config))
        table_us = next((micros for micros, config in times if config == now), float("nan"))
        for micros, config in sorted(times, key=lambda pair: pair[0])[:SHOWN]:
            bandwidth, flops = rates(micros, stack, share)
            mark = " (table)" if config == now else ""
            print(f"  {name:4} {micros:8.1f} us {bandwidth:5.2f} TB/s {flops:6.0f} TFLOP/s {config}{mark}")
            found.append({"tokens": tokens, "product": name, "us": micros, "table us": table_us, "config": str(config)})
        print(f"  {name:4} {len(times)} of {len(configs)} candidates timed; the table's: {table_us:.1f} us")
    return found + whole_wide(stack, best, pdl)


def whole_wide(stack: list[Layer], best: dict[tuple[int, str], tuple[float, Wide]], pdl: bool) -> list[dict[str, Any]]:
    """The whole layer with the best `Wide` tiles of both products, for each size of block that both were timed with."""
    tokens = stack[0].x.shape[0]
    found = []
    for block in sorted({block for block, _ in best}):
        if (block, "up") in best and (block, "down") in best:
            choice = Choice(best[block, "up"][1], best[block, "down"][1])
            micros = time_of(partial(everything, choice=choice, pdl=pdl), stack)
            print(f"  all  {micros:8.1f} us {rates(micros, stack)[1]:18.0f} TFLOP/s {choice}")
            found.append({"tokens": tokens, "product": "all", "us": micros, "config": str(choice)})
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
            choice = table_of(layer)
            if not isinstance(choice.up, Direct):
                pairs_of(layer, choice.up.block_m)
            inner_of(layer, choice.down)
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
