from __future__ import annotations

from typing import Any

import pytest
import torch

from layers.plain import context
from sglcore.errors import ConfigError
from sglcore.layers.embedding import LMHead, VocabEmbedding
from sglcore.layers.linear import Linear, Part, RowParallelLinear, qkv_linear
from sglcore.layers.loading import Slot
from sglcore.layers.mlp import GatedMLP
from sglcore.layers.norm import RMSNorm


def fill(slots: dict[str, Slot]) -> dict[str, torch.Tensor]:
    """Seeded values for every slot, the same whatever the sharding."""
    random = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(slots[name].shape, generator=random) for name in sorted(slots)}
    for name, tensor in tensors.items():
        slots[name].put(tensor)
    return tensors


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


def test_merged_parts_stand_one_after_another_with_their_biases() -> None:
    layer = Linear(context(), 8, [Part("a", 3), Part("b", 5)], bias=True)
    assert layer.op is None
    t = fill(layer.slots("m."))
    x = normal(4, 8)
    want = torch.cat([x @ t[f"m.{n}.weight"].t() + t[f"m.{n}.bias"] for n in "ab"], 1)
    torch.testing.assert_close(layer(x), want)
    assert layer._weight is None, "only the op may hold the weight once it is complete"


def test_the_weight_is_handed_over_when_the_last_part_is_in() -> None:
    layer = Linear(context(), 2, [Part("a", 1), Part("b", 1)])
    slots = layer.slots("")
    slots["b.weight"].put(torch.ones(1, 2))
    assert layer.op is None
    slots["a.weight"].put(torch.zeros(1, 2))
    assert layer(torch.ones(1, 2)).tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize(("ranks", "kv_heads"), [(1, 2), (2, 2), (2, 4), (4, 2), (4, 1)])
def test_query_heads_are_split_and_key_heads_split_or_shared(ranks: int, kv_heads: int) -> None:
    heads, dim, hidden, x = 8, 4, 6, normal(3, 6)
    whole = qkv_linear(context(), hidden, heads, kv_heads, dim, bias=True)
    fill(whole.slots(""))
    q, k, v = whole(x).split([heads * dim, kv_heads * dim, kv_heads * dim], 1)
    for rank in range(ranks):
        layer = qkv_linear(context(tp_rank=rank, tp_size=ranks), hidden, heads, kv_heads, dim, bias=True)
        fill(layer.slots(""))
        mine = layer(x).split(layer.sizes, 1)
        kept = max(1, kv_heads // ranks)
        first = rank * heads // ranks // (heads // kv_heads)  # the key head of this rank's first query head
        torch.testing.assert_close(
            mine[0], q.view(3, heads, dim)[:, rank * heads // ranks :][:, : heads // ranks].flatten(1)
        )
        for part, full in ((mine[1], k), (mine[2], v)):
            torch.testing.assert_close(part, full.view(3, kv_heads, dim)[:, first : first + kept].flatten(1))


def test_row_parallel_shards_add_up_and_the_bias_counts_once() -> None:
    x = normal(3, 8)
    whole = RowParallelLinear(context(), 8, 5, "o", bias=True)
    fill(whole.slots(""))
    total = torch.zeros(3, 5)
    for rank in range(4):
        layer = RowParallelLinear(context(tp_rank=rank, tp_size=4), 8, 5, "o", bias=True, reduce=lambda y: y)
        fill(layer.slots(""))
        total += layer(x[:, rank * 2 : rank * 2 + 2])
    torch.testing.assert_close(total, whole(x))


def test_gated_mlp_over_ranks_adds_up() -> None:
    x = normal(3, 8)
    whole = GatedMLP(context(), 8, 12, bias=True)
    t = fill(whole.slots("mlp."))
    gate = x @ t["mlp.gate_proj.weight"].t() + t["mlp.gate_proj.bias"]
    up = x @ t["mlp.up_proj.weight"].t() + t["mlp.up_proj.bias"]
    want = (gate * torch.sigmoid(gate) * up) @ t["mlp.down_proj.weight"].t() + t["mlp.down_proj.bias"]
    torch.testing.assert_close(whole(x), want)
    total = torch.zeros(3, 8)
    for rank in range(3):
        layer = GatedMLP(context(tp_rank=rank, tp_size=3), 8, 12, bias=True, reduce=lambda y: y)
        fill(layer.slots("mlp."))
        total += layer(x)
    torch.testing.assert_close(total, want)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda ctx: GatedMLP(ctx, 8, 9, reduce=lambda y: y), "9 cannot be split evenly over 2"),
        (lambda ctx: qkv_linear(ctx, 8, 3, 1, 4), "3 cannot be split evenly over 2"),
        (lambda ctx: RowParallelLinear(ctx, 8, 4, "o_proj"), "o_proj is split over 2 ranks"),
    ],
)
def test_what_cannot_be_sharded_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(context(tp_rank=0, tp_size=2))


def test_a_head_of_its_own_and_a_tied_one() -> None:
    x = normal(3, 8)
    embed = VocabEmbedding(context(), 11, 8)
    tied, own = LMHead(context(), 11, 8, tied_to=embed), LMHead(context(), 11, 8)
    assert tied.slots("lm_head") == {}
    assert list(own.slots("lm_head")) == ["lm_head.weight"]
    t = fill(embed.slots("embed") | own.slots("lm_head"))
    assert torch.equal(embed(torch.tensor([4, 4, 0])), t["embed.weight"][[4, 4, 0]])
    torch.testing.assert_close(tied(x), x @ t["embed.weight"].t())
    torch.testing.assert_close(own(x, torch.tensor([2])), x[2:] @ t["lm_head.weight"].t())


def test_logits_are_float32_in_every_dtype() -> None:
    embed = VocabEmbedding(context(dtype=torch.bfloat16), 11, 8)
    head = LMHead(context(dtype=torch.bfloat16), 11, 8, tied_to=embed)
    fill(embed.slots("embed"))
    assert head(embed(torch.tensor([1]))).dtype == torch.float32


def test_norm_adds_then_normalises() -> None:
    norm = RMSNorm(context(), 8, 1e-5)
    fill(norm.slots("n"))
    x, residual = normal(2, 8), torch.ones(2, 8)
    got, total = norm.add(x, residual.clone())
    torch.testing.assert_close(total, x + 1)
    torch.testing.assert_close(got, norm(x + 1))
