"""Fused experts against the reference: interpreted in float32 without a GPU, compiled on one."""

from __future__ import annotations

import pytest
import torch
from sglcore_plugin_cuda.kernels import moe_wide
from sglcore_plugin_cuda.kernels.moe import fused_moe
from sglcore_plugin_cuda.kernels.moe_align import align
from sglcore_plugin_cuda.kernels.moe_route import route
from sglcore_plugin_cuda.kernels.moe_table import Choice, Direct, Grouped, Wide, choose, most_blocks
from sglcore_plugin_cuda.kernels.moe_wide import suits

from sglcore.layers import reference

HIDDEN, INNER = 48, 24  # no multiples of the tiles
DIRECT = Choice(Direct(8, 32, 1, 2), Direct(4, 16, 1, 1))
SWAPPED = Choice(Grouped(16, 32, 32, 1, 1, 2, True), Grouped(16, 16, 32, 2, 1, 2, True))
PLAIN = Choice(Grouped(16, 32, 32, 2, 1, 2, False), Grouped(16, 32, 16, 1, 1, 2, False))
WIDE = Choice(Wide(16, 32, 32, 2, 1, 2), Wide(16, 32, 16, 1, 1, 2))
STAYING = Choice(Wide(16, 64, 16, 1, 1, 2), Wide(16, 16, 16, 2, 1, 2, True))
CHOICES = {"direct": DIRECT, "swapped": SWAPPED, "plain": PLAIN, "wide": WIDE, "staying": STAYING}


def layer(experts: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(gate and up, down) of small experts."""
    random = torch.Generator().manual_seed(experts)
    gate_up = torch.randn(experts, 2 * INNER, HIDDEN, generator=random) * 0.2
    down = torch.randn(experts, HIDDEN, INNER, generator=random) * 0.2
    return gate_up.to(device), down.to(device)


def routing(tokens: int, experts: int, k: int, device: str, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A router's choice for random logits."""
    random = torch.Generator().manual_seed(seed)
    weights, chosen = reference.route(torch.randn(tokens, experts, generator=random), k, True)
    return weights.to(device), chosen.to(device)


def normal(tokens: int, device: str) -> torch.Tensor:
    """x [tokens, HIDDEN]."""
    return torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(5)).to(device)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize(("tokens", "experts", "k"), [(1, 4, 2), (7, 4, 2), (20, 6, 3)])
def test_it_is_the_reference(device: str, choice: Choice, tokens: int, experts: int, k: int) -> None:
    x, (gate_up, down) = normal(tokens, device), layer(experts, device)
    weights, chosen = routing(tokens, experts, k, device)
    got = fused_moe(x, gate_up, down, weights, chosen, choice=choice)
    torch.testing.assert_close(got, reference.moe(x, gate_up, down, weights, chosen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_a_row_does_not_depend_on_the_others(device: str, choice: Choice) -> None:
    """Nor on what a padded row holds."""
    x, (gate_up, down) = normal(9, device), layer(5, device)
    weights, chosen = routing(9, 5, 2, device)
    whole = fused_moe(x, gate_up, down, weights, chosen, choice=choice)
    x[5:], weights[5:], chosen[5:] = float("nan"), float("nan"), 4
    assert torch.equal(fused_moe(x, gate_up, down, weights, chosen, choice=choice)[:5], whole[:5])


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "block"), [(1, 8, 2, 16), (50, 5, 3, 16), (70, 40, 8, 32), (1500, 7, 3, 64)]
)
def test_pairs_are_sorted_into_blocks(device: str, tokens: int, experts: int, k: int, block: int) -> None:
    _, chosen = routing(tokens, experts, k, device)
    order, blocks, most = align(chosen, experts, block)
    found: list[int] = []
    flat = chosen.flatten().tolist()
    owners, filled = blocks.tolist()
    for number, (owner, rows) in enumerate(zip(owners, filled, strict=True)):
        assert 0 <= rows <= block
        pairs = order[number * block : number * block + rows].tolist()
        assert all(flat[pair] == owner for pair in pairs)
        assert pairs == sorted(pairs)
        found += pairs
    assert sorted(found) == list(range(tokens * k))
    used = [rows > 0 for rows in filled]
    assert used == sorted(used, reverse=True), "empty blocks come last"
    assert sum(used) == sum(-(-flat.count(expert) // block) for expert in set(flat)) <= most


def test_the_bound_on_blocks_holds_for_the_worst_routing() -> None:
    for pairs in range(1, 60):
        for experts in (1, 3, 8):
            hit = min(pairs, experts)
            worst = hit + (pairs - hit) // 16  # one pair each, the rest in full blocks
            assert worst <= most_blocks(pairs, experts, 16)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("tokens", "experts", "k"), [(3, 8, 2), (70, 12, 5)])
def test_routes_are_the_largest_of_the_softmax(device: str, tokens: int, experts: int, k: int, normalise: bool) -> None:
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(1)).to(device) * 3
    weights, chosen = route(logits, k, normalise)
    want_weights, want = reference.route(logits, k, normalise)
    assert chosen.dtype == torch.int32
    assert torch.equal(chosen, want)
    torch.testing.assert_close(weights, want_weights, atol=1e-6, rtol=1e-5)


def test_broken_logits_choose_experts_that_exist_and_show_in_the_weights(device: str) -> None:
    logits = torch.zeros(4, 6, device=device)
    logits[0, 2], logits[1], logits[2, 1] = float("nan"), float("nan"), float("inf")
    logits[3, 2:] = float("-inf")
    weights, chosen = route(logits, 3, True)
    assert chosen[2, 0] == 1
    assert all(sorted(set(row)) == sorted(row) and min(row) >= 0 and max(row) < 6 for row in chosen.tolist())
    assert bool(weights[:2].isnan().all())
    torch.testing.assert_close(weights[3], torch.tensor([0.5, 0.5, 0.0], device=device))


def test_no_tokens(device: str) -> None:
    gate_up, down = layer(4, device)
    none = torch.empty(0, HIDDEN, device=device)
    weights, chosen = route(torch.empty(0, 4, device=device), 2, True)
    assert fused_moe(none, gate_up, down, weights, chosen).shape == (0, HIDDEN)


@pytest.mark.parametrize("wide", [False, True])
def test_the_table_knows_every_size(wide: bool) -> None:
    for tokens in (1, 4, 5, 16, 64, 256, 512, 2048, 8192):
        choice = choose(tokens * 8, 128, wide=wide)
        assert type(choice.up) is type(choice.down)
        assert isinstance(choice.up, Direct) == (tokens <= 4)
        assert wide or not isinstance(choice.up, Wide)
        if not isinstance(choice.up, Direct) and not isinstance(choice.down, Direct):
            assert choice.up.block_m == choice.down.block_m


def test_tiles_by_tma_are_for_types_and_sizes_that_suit_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def suited(hidden: int, inner: int, dtype: torch.dtype = torch.bfloat16, pairs: int = 64) -> bool:
        def none(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype)

        return suits(none(2, hidden), none(3, 2 * inner, hidden), none(3, hidden, inner), pairs)

    assert not suited(64, 32), "no such GPU"
    monkeypatch.setattr(moe_wide, "_is_hopper", lambda device: True)
    assert suited(64, 32)
    assert suited(48, 24)
    assert not suited(64, 32, torch.float32)
    assert not suited(44, 24)
    assert not suited(48, 20)
    assert not suited(64, 32, pairs=2**25)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tokens", [1, 3, 16, 64, 256, 512, 2048])
def test_on_the_card_it_is_as_exact_as_its_type_allows(tokens: int) -> None:
    """bfloat16 in Qwen3-30B-A3B's sizes, against float32, eager and replayed from a graph with another routing."""
    torch.manual_seed(0)
    hidden, inner, experts, k = 2048, 768, 32, 8
    gate_up = torch.randn(experts, 2 * inner, hidden, device="cuda", dtype=torch.bfloat16) * 0.03
    down = torch.randn(experts, hidden, inner, device="cuda", dtype=torch.bfloat16) * 0.03
    x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
    if tokens >= 512:
        assert suits(x, gate_up, down, tokens * k) == (torch.cuda.get_device_capability()[0] == 9)
    weights, chosen = route(torch.randn(tokens, experts, device="cuda"), k, True)

    def check(got: torch.Tensor) -> None:
        want = reference.moe(x.float(), gate_up.float(), down.float(), weights, chosen)
        error = float((got.float() - want).abs().max() / want.abs().max())
        assert error < 1.6e-2, f"error of {error:.1e} of the largest value"

    check(fused_moe(x, gate_up, down, weights, chosen))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused_moe(x, gate_up, down, weights, chosen)
    for _ in range(2):
        x.copy_(torch.randn_like(x))
        new_weights, new = route(torch.randn(tokens, experts, device="cuda"), k, True)
        weights.copy_(new_weights)
        chosen.copy_(new)
        graph.replay()
        check(out)
