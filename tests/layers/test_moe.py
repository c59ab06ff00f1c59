from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from layers.plain import context
from sglcore.contracts.models import BuildContext
from sglcore.errors import ConfigError
from sglcore.layers import reference
from sglcore.layers.loading import Slot, load, load_dummy
from sglcore.layers.moe import GatedExperts, MixtureOfExperts, Router

EXPERTS, HIDDEN, INNER, TOP = 5, 8, 12, 2


def tensors(slots: dict[str, Slot], seed: int = 1) -> dict[str, torch.Tensor]:
    """Seeded values for every slot."""
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(slots[name].shape, generator=random) for name in sorted(slots)}


def parts(slots: dict[str, Slot]) -> dict[str, torch.Tensor]:
    """Values for the slots of single experts."""
    return tensors({name: slot for name, slot in slots.items() if not slot.stands_for})


def merged(single: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values, all experts in two tensors."""

    def pile(name: str) -> torch.Tensor:
        return torch.stack([single[f"{expert}.{name}_proj.weight"] for expert in range(EXPERTS)])

    return {"gate_up_proj": torch.cat((pile("gate"), pile("up")), 1), "down_proj": pile("down")}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


def by_hand(x: torch.Tensor, w: dict[str, torch.Tensor], weights: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    """Token by token, expert by expert, in float64."""
    result = torch.zeros(x.shape, dtype=torch.float64)
    for token in range(x.shape[0]):
        row = x[token].double()
        for weight, expert in zip(weights[token].tolist(), experts[token].tolist(), strict=True):
            gate, up, down = (w[f"{expert}.{name}_proj.weight"].double() for name in ("gate", "up", "down"))
            a = gate @ row
            result[token] += weight * (down @ (a / (1 + (-a).exp()) * (up @ row)))
    return result


def experts_of(ctx: BuildContext, given: dict[str, torch.Tensor], **more: Any) -> GatedExperts:
    layer = GatedExperts(ctx, EXPERTS, HIDDEN, INNER, **more)
    load(given.items(), layer.slots(""))
    return layer


@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_experts_are_summed_by_weight_from_either_kind_of_checkpoint(tokens: int) -> None:
    layer = GatedExperts(context(), EXPERTS, HIDDEN, INNER)
    single = parts(layer.slots(""))
    x = normal(tokens, HIDDEN)
    weights, experts = reference.route(normal(tokens, EXPERTS), TOP, False)
    want = by_hand(x, single, weights, experts)
    for given in (single, merged(single)):
        got = experts_of(context(), given)(x, weights, experts)
        assert got.dtype == x.dtype
        torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)


def test_ranks_hold_slices_of_every_expert_that_add_up() -> None:
    single = parts(GatedExperts(context(), EXPERTS, HIDDEN, INNER).slots(""))
    x = normal(6, HIDDEN)
    weights, experts = reference.route(normal(6, EXPERTS), TOP, True)
    whole = experts_of(context(), single)(x, weights, experts)
    for given in (single, merged(single)):
        total = torch.zeros_like(x)
        for rank in range(3):
            ctx = context(tp_rank=rank, tp_size=3, all_reduce=lambda y: y)
            layer = experts_of(ctx, given)
            assert tuple(layer.gate_up.shape) == (EXPERTS, 2 * INNER // 3, HIDDEN)
            assert tuple(layer.down.shape) == (EXPERTS, HIDDEN, INNER // 3)
            total += layer(x, weights, experts)
        torch.testing.assert_close(total, whole)


def test_each_rank_sums_over_the_ranks_once() -> None:
    seen: list[tuple[int, ...]] = []

    def reduce(y: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(y.shape))
        return y * 2

    single = parts(GatedExperts(context(), EXPERTS, HIDDEN, INNER).slots(""))
    x, routed = normal(4, HIDDEN), reference.route(normal(4, EXPERTS), TOP, True)
    whole = experts_of(context(), single)(x, *routed)
    torch.testing.assert_close(experts_of(context(), single, reduce=reduce)(x, *routed), whole * 2)
    assert seen == [(4, HIDDEN)]


@pytest.mark.parametrize("normalise", [True, False])
def test_a_router_takes_the_heaviest_in_float32(normalise: bool) -> None:
    router = Router(context(dtype=torch.bfloat16), HIDDEN, EXPERTS, TOP, normalise=normalise)
    slots = router.slots("mlp.")
    assert list(slots) == ["mlp.gate.weight"]
    load(tensors(slots).items(), slots)
    x = normal(7, HIDDEN).bfloat16()
    weights, experts = router(x)
    assert (weights.dtype, experts.dtype) == (torch.float32, torch.int32)
    shares = torch.softmax(router.gate(x).float(), -1)
    assert experts.tolist() == shares.argsort(-1, descending=True)[:, :TOP].tolist()
    want = shares.gather(1, experts.long())
    torch.testing.assert_close(weights, want / want.sum(-1, keepdim=True) if normalise else want)


def test_the_table_s_kernels_are_used_where_it_has_them() -> None:
    calls: list[str] = []

    def moe(x: torch.Tensor, *_: Any) -> torch.Tensor:
        calls.append("moe")
        return x

    def route(logits: torch.Tensor, k: int, normalise: bool) -> Any:
        calls.append("route")
        return reference.route(logits, k, normalise)

    plain = context()
    ops = SimpleNamespace(**vars(plain.ops), moe=moe, route=route)
    layer = MixtureOfExperts(
        BuildContext(config={}, ops=ops, attention=plain.attention, dtype=plain.dtype, device=plain.device),
        HIDDEN,
        INNER,
        experts=EXPERTS,
        k=TOP,
        normalise=True,
    )
    load_dummy(layer.slots("mlp."), 1)
    x = normal(3, HIDDEN)
    assert layer(x) is x
    assert calls == ["route", "moe"]


def test_dummy_weights_fill_every_expert_alike_on_any_number_of_ranks() -> None:
    whole = GatedExperts(context(), EXPERTS, HIDDEN, INNER)
    load_dummy(whole.slots("e."), 3)
    half = GatedExperts(context(tp_rank=1, tp_size=2, all_reduce=lambda y: y), EXPERTS, HIDDEN, INNER)
    load_dummy(half.slots("e."), 3)
    assert torch.equal(half.down, whole.down[:, :, INNER // 2 :])
    gate, up = whole.gate_up.chunk(2, 1)
    assert torch.equal(half.gate_up, torch.cat((gate[:, INNER // 2 :], up[:, INNER // 2 :]), 1))
    assert float(whole.gate_up.std()) == pytest.approx(1e-3 / 3**0.5, rel=0.2)


def test_a_checkpoint_holds_each_expert_once_and_all_of_it() -> None:
    slots = GatedExperts(context(), EXPERTS, HIDDEN, INNER).slots("e.")
    single = {f"e.{name}": t for name, t in parts(GatedExperts(context(), EXPERTS, HIDDEN, INNER).slots("")).items()}
    lost = "e.3.up_proj.weight"
    with pytest.raises(ConfigError, match=f"lacks 1 of .*{lost}"):
        load([pair for pair in single.items() if pair[0] != lost], slots)
    whole = ("e.down_proj", torch.zeros(EXPERTS, HIDDEN, INNER))
    with pytest.raises(ConfigError, match=r"e\.0\.down_proj\.weight twice"):
        load([whole, ("e.0.down_proj.weight", torch.zeros(HIDDEN, INNER))], slots)
    with pytest.raises(ConfigError, match=r"e\.down_proj twice"):
        load([*single.items(), whole], slots)
    with pytest.raises(ConfigError, match=r"lacks 1 of .*e\.gate_up_proj"):
        load([whole], slots)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConfigError, match="6 experts a token"):
        Router(context(), HIDDEN, EXPERTS, 6, normalise=True)
    with pytest.raises(ConfigError, match="inner size"):
        GatedExperts(context(tp_size=5, all_reduce=lambda y: y), EXPERTS, HIDDEN, INNER)
    with pytest.raises(ConfigError, match="no sum over ranks"):
        GatedExperts(context(tp_size=2), EXPERTS, HIDDEN, INNER)
