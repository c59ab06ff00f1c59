"""Linear layers whose weights are a quantization method's affair: loading, sharding, mixtures, dummies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layers.int8 import Int8, quantized
from layers.plain import context
from sglcore.contracts.quant import QuantContext
from sglcore.errors import ConfigError
from sglcore.layers.embedding import LMHead
from sglcore.layers.linear import Linear, Part, RowParallelLinear, qkv_linear
from sglcore.layers.loading import Slot, load, load_dummy
from sglcore.layers.mlp import GatedMLP


def method(**config: Any) -> Int8:
    return Int8(QuantContext(config=config, ops=context().ops, dtype=torch.float32, device=torch.device("cpu")))


def normal(*shape: int, seed: int = 9) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_tensors(slots: dict[str, Slot]) -> dict[str, torch.Tensor]:
    return {name: normal(*slots[name].shape, seed=i) for i, name in enumerate(sorted(slots))}


def checkpoint(plain: dict[str, torch.Tensor], group: int = 0) -> dict[str, torch.Tensor]:
    """The same model as an int8 checkpoint."""
    found = {}
    for name, tensor in plain.items():
        if name.endswith("weight"):
            stem = name.removesuffix("weight")
            found[f"{stem}qweight"], found[f"{stem}scales"] = quantized(tensor, group)
        else:
            found[name] = tensor
    return found


def test_a_merged_layer_is_near_its_plain_self_and_made_once() -> None:
    parts = [Part("a", 16), Part("b", 24)]
    plain, int8 = Linear(context(), 32, parts, bias=True), method(quant_method="int8")
    tensors = plain_tensors(plain.slots("m."))
    load(tensors.items(), plain.slots("m."))
    layer = Linear(context(quant=int8), 32, parts, bias=True)
    slots = layer.slots("m.")
    assert sorted(slots) == sorted(checkpoint(tensors))
    load(checkpoint(tensors).items(), slots)
    assert int8.made == ["m.a"]
    x = normal(5, 32)
    got, want = layer(x), plain(x)
    assert not torch.equal(got, want)
    torch.testing.assert_close(got, want, atol=0.15, rtol=0.02)


def test_a_plain_checkpoint_is_quantized_while_it_loads() -> None:
    plain, layer = (Linear(context(quant=quant), 32, [Part("a", 16)]) for quant in (None, method()))
    tensors = plain_tensors(plain.slots(""))
    for one in (plain, layer):
        load(tensors.items(), one.slots(""))
    assert layer.op is not None and layer.op.weight.dtype == torch.int8  # type: ignore[attr-defined]
    torch.testing.assert_close(layer(normal(5, 32)), plain(normal(5, 32)), atol=0.15, rtol=0.02)


@pytest.mark.parametrize("group", [0, 4])
def test_ranks_hold_shares_that_make_the_whole(group: int) -> None:
    config = {"quant_method": "int8", "group": group}
    whole = GatedMLP(context(quant=method(**config)), 16, 24, bias=True)
    tensors = checkpoint(plain_tensors(GatedMLP(context(), 16, 24, bias=True).slots("mlp.")), group)
    load(tensors.items(), whole.slots("mlp."))
    x, total = normal(3, 16), torch.zeros(3, 16)
    for rank in range(2):
        ctx = context(tp_rank=rank, tp_size=2, quant=method(**config))
        layer = GatedMLP(ctx, 16, 24, bias=True, reduce=lambda y: y)
        load(tensors.items(), layer.slots("mlp."))
        assert layer.gate_up.op is not None and layer.gate_up.op.out_features == 24
        total += layer(x)
    torch.testing.assert_close(total, whole(x))


def test_key_heads_that_ranks_share_are_cut_the_same_way() -> None:
    config = {"quant_method": "int8"}
    whole = qkv_linear(context(quant=method(**config)), 8, 4, 1, 4)
    tensors = checkpoint(plain_tensors(qkv_linear(context(), 8, 4, 1, 4).slots("")))
    load(tensors.items(), whole.slots(""))
    x = normal(3, 8)
    q, k, v = whole(x).split(whole.sizes, 1)
    for rank in range(2):
        layer = qkv_linear(context(tp_rank=rank, tp_size=2, quant=method(**config)), 8, 4, 1, 4)
        load(tensors.items(), layer.slots(""))
        mine = layer(x).split(layer.sizes, 1)
        torch.testing.assert_close(mine[0], q[:, rank * 8 : rank * 8 + 8])
        torch.testing.assert_close(mine[1], k)
        torch.testing.assert_close(mine[2], v)


def test_a_group_that_a_cut_would_split_is_refused() -> None:
    ctx = context(tp_rank=1, tp_size=2, quant=method(quant_method="int8", group=8))
    layer = RowParallelLinear(ctx, 24, 6, "o_proj", reduce=lambda y: y)
    with pytest.raises(ConfigError, match=r"o_proj\.scales keeps 8 values to an element .* cut at 12 to 24"):
        load(checkpoint({"o_proj.weight": normal(6, 24)}, 8).items(), layer.slots(""))


def test_a_layer_that_the_checkpoint_left_plain_stays_plain() -> None:
    head = LMHead(context(quant=method(quant_method="int8", modules_to_not_convert=["lm_head"])), 11, 8)
    assert list(head.slots("lm_head")) == ["lm_head.weight"]
    assert sorted(LMHead(context(quant=method(quant_method="int8")), 11, 8).slots("lm_head")) == [
        "lm_head.qweight",
        "lm_head.scales",
    ]


def test_half_a_merged_layer_is_refused_by_name() -> None:
    layer = Linear(
        context(quant=method(quant_method="int8", modules_to_not_convert=["up"])), 8, [Part("gate", 4), Part("up", 4)]
    )
    with pytest.raises(ConfigError, match=r"m\.gate is quantized and m\.up is not"):
        layer.slots("m.")


def test_a_tensor_of_another_type_is_refused_by_name() -> None:
    slots = Linear(context(quant=method(quant_method="int8")), 8, [Part("a", 4)]).slots("m.")
    tensors = {"m.a.qweight": normal(4, 8), "m.a.scales": normal(4)}
    with pytest.raises(ConfigError, match=r"m\.a\.qweight holds torch\.float32 .* reads torch\.int8"):
        load(tensors.items(), slots)


def test_dummy_weights_are_of_the_methods_types() -> None:
    results = []
    for seed in (1, 1, 2):
        layer = Linear(context(quant=method(quant_method="int8")), 8, [Part("a", 4)])
        load_dummy(layer.slots(""), seed)
        assert layer.op is not None
        weight, scales = layer.op.weight, layer.op.scales  # type: ignore[attr-defined]
        assert weight.dtype == torch.int8 and int(weight.float().std()) > 20
        assert float(scales.min()) >= 0.001 and float(scales.max()) <= 0.01
        results.append(layer(normal(2, 8)))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
