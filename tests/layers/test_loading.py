from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch

from sglcore.errors import ConfigError
from sglcore.layers.loading import Slot, copy_into, load, load_dummy


def table(**shapes: tuple[int, ...]) -> tuple[dict[str, torch.Tensor], dict[str, Slot]]:
    targets = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return targets, {name: Slot(tuple(t.shape), copy_into(t)) for name, t in targets.items()}


def test_each_tensor_lands_in_its_slot_in_any_order_and_dtype() -> None:
    targets, slots = table(a=(2,), b=(2, 3))
    load([("b", torch.full((2, 3), 2, dtype=torch.bfloat16)), ("a", torch.ones(2))], slots)
    assert torch.equal(targets["a"], torch.ones(2))
    assert torch.equal(targets["b"], torch.full((2, 3), 2.0))


def test_tensors_are_let_go_as_they_come() -> None:
    _, slots = table(a=(4,), b=(4,), c=(4,))
    alive: list[weakref.ref[torch.Tensor]] = []

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for name in "abc":
            assert not [ref for ref in alive if ref() is not None], "an earlier tensor is still held"
            tensor = torch.ones(4)
            alive.append(weakref.ref(tensor))
            pair = (name, tensor)
            del tensor
            yield pair
            del pair

    load(stream(), slots)
    assert len(alive) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([("a", (2,))], ["lacks 1 of the 2", "b"]),
        ([("a", (2,)), ("b", (3,)), ("x.weight", (1,))], ["x.weight", "no place"]),
        ([("a", (2,)), ("a", (2,))], ["a twice"]),
        ([("a", (3,))], ["a has shape [3]", "[2]"]),
        ([("a", ())], ["a has shape []"]),
    ],
)
def test_what_does_not_fit_is_named(given: list[tuple[str, tuple[int, ...]]], said: list[str]) -> None:
    _, slots = table(a=(2,), b=(3,))
    with pytest.raises(ConfigError) as caught:
        load([(name, torch.zeros(shape)) for name, shape in given], slots)
    for words in said:
        assert words in str(caught.value)


def test_many_missing_names_are_cut_short() -> None:
    _, slots = table(**{f"n{i}": (1,) for i in range(20)})
    with pytest.raises(ConfigError, match=r"lacks 20 of the 20.*n4 and 15 more"):
        load([], slots)


def test_an_optional_tensor_may_be_missing_and_one_number_may_have_a_dimension() -> None:
    given: list[float] = []
    _, slots = table(a=(2,))
    slots["scale"] = Slot((), lambda tensor: given.append(float(tensor)), optional=True)
    load([("a", torch.ones(2))], slots)
    load_dummy(slots, 1)
    assert not given
    with pytest.raises(ConfigError, match=r"lacks 1 of the 1 tensors .*: a\."):
        load([("scale", torch.tensor(2.0))], slots)
    load([("scale", torch.tensor([3.0])), ("a", torch.ones(2))], slots)
    assert given == [2.0, 3.0]
    with pytest.raises(ConfigError, match=r"scale has shape \[2\]"):
        load([("scale", torch.ones(2))], slots)


def test_ignored_names_are_full_matches() -> None:
    _, slots = table(a=(1,))
    load([("x.inv_freq", torch.zeros(3)), ("a", torch.zeros(1))], slots, ignore=(r".*\.inv_freq", "head"))
    with pytest.raises(ConfigError, match="head2"):
        load([("head2", torch.zeros(3)), ("a", torch.zeros(1))], slots, ignore=(r".*\.inv_freq", "head"))


def test_dummy_values_scatter_around_the_mean_and_follow_the_seed() -> None:
    targets, slots = table(a=(100, 100), b=(5000,))
    slots["b"] = Slot((5000,), copy_into(targets["b"]), mean=1.0)
    load_dummy(slots, 3)
    first = {name: t.clone() for name, t in targets.items()}
    assert abs(float(first["a"].mean())) < 1e-4
    assert 5e-4 < float(first["a"].std()) < 6e-4 and float(first["a"].abs().max()) <= 1e-3
    assert abs(float(first["b"].mean()) - 1) < 1e-4
    load_dummy(slots, 3)
    assert all(torch.equal(first[name], t) for name, t in targets.items())
    load_dummy(slots, 4)
    assert not torch.equal(first["a"], targets["a"])
