"""A layer of gated experts in a few launches whose shapes depend on the number of tokens alone.

A few pairs of token and expert: gate-up with silu and product, then down with the sum over experts, each pair on its
own. More: pairs are sorted by expert into blocks, a grouped product with the same epilogue, a grouped product
times the routed weight, and the sum over a token's experts in float32; many rows an expert on a Hopper GPU take the
same steps with matrices by TMA. Nothing waits for the device, so all of it can be captured in a graph; every row's
result is its own, whatever the other rows hold.
"""

from __future__ import annotations

import torch

from sglcore_plugin_cuda.kernels.moe_align import align
from sglcore_plugin_cuda.kernels.moe_direct import direct_down, direct_up
from sglcore_plugin_cuda.kernels.moe_grouped import grouped, sum_terms
from sglcore_plugin_cuda.kernels.moe_table import Choice, Direct, Grouped, Wide, choose
from sglcore_plugin_cuda.kernels.moe_wide import suits, wide_down, wide_up


def fused_moe(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    weights: torch.Tensor,
    experts: torch.Tensor,
    *,
    pdl: bool = False,
    choice: Choice | None = None,
) -> torch.Tensor:
    """For each token the sum over its experts of weight * down(silu_mul(gate_up(x))).

    x [tokens, hidden]; gate_up [experts, 2 * inner, hidden], down [experts, hidden, inner], both contiguous; weights
    float32 and experts int32 [tokens, k], each below the number of experts -> [tokens, hidden], summed in float32.
    choice: tiles to use instead of the table's; `Wide` ones only for a layer that `moe_wide.suits`.
    """
    x, weights, experts = x.contiguous(), weights.contiguous(), experts.contiguous()
    tokens = x.shape[0]
    if tokens == 0:
        return torch.empty_like(x)
    pairs, count = experts.numel(), gate_up.shape[0]
    chosen = choice or choose(pairs, count, wide=suits(x, gate_up, down, pairs))
    if isinstance(chosen.up, Direct) and isinstance(chosen.down, Direct):
        inner = direct_up(x, gate_up, experts, chosen.up, pdl=pdl)
        return direct_down(inner, down, weights, experts, chosen.down, pdl=pdl)
    assert isinstance(chosen.up, Grouped | Wide)
    sorted_pairs = align(experts, count, chosen.up.block_m, pdl=pdl)
    if isinstance(chosen.up, Wide) and isinstance(chosen.down, Wide):
        inner = wide_up(x, gate_up, experts.shape[1], sorted_pairs, chosen.up, pdl=pdl)
        return sum_terms(wide_down(inner, down, weights, sorted_pairs, chosen.down, pdl=pdl), tokens, pdl=pdl)
    assert isinstance(chosen.up, Grouped) and isinstance(chosen.down, Grouped)
    inner = grouped(x, gate_up, weights, sorted_pairs, chosen.up, gated=True, pdl=pdl)
    terms = grouped(inner, down, weights, sorted_pairs, chosen.down, gated=False, pdl=pdl)
    return sum_terms(terms, tokens, pdl=pdl)
