"""Penalties and biases in one kernel, to the bit as the reference has them; see conftest for where the kernel runs."""

from __future__ import annotations

import pytest
import torch

from sglcore.layers import reference

pytest.importorskip("triton")


@pytest.fixture
def ops(device):
    from sglcore_plugin_cuda.ops import CudaOps

    return CudaOps()


def tables(device: str, slots: int, vocab: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(counts, prompt, bias), their first slots zero, most counts and biases too."""
    random = torch.Generator().manual_seed(seed)
    counts = (torch.randint(0, 40, (slots, vocab), generator=random) - 34).clamp(min=0).to(torch.int32)
    prompt = torch.rand(slots, vocab, generator=random) < 0.2
    bias = torch.randn(slots, vocab, generator=random) * 20
    bias[torch.rand(slots, vocab, generator=random) < 0.9] = 0.0
    for table in (counts, prompt, bias):
        table[0] = 0
    return counts.to(device), prompt.to(device), bias.to(device)


@pytest.mark.parametrize("seed", range(6))
def test_random_rows_to_the_bit(ops, device, seed):
    """Any rows of the batch, in any order, with any of the rules; what no rule touches keeps its bits."""
    random = torch.Generator().manual_seed(seed)
    rows, vocab, slots = 9, (7, 2048, 2049, 5000, 300, 4096)[seed], 6
    wide = torch.randn(rows, vocab + 5, generator=random) * 6
    wide[3, vocab // 2], wide[4, 0], wide[5, 1] = float("-inf"), float("inf"), -0.0
    ours, want = wide.to(device)[:, :vocab], wide.to(device)[:, :vocab].clone()
    before = ours.clone()
    held = tables(device, slots, vocab, seed)
    named = torch.randperm(rows, generator=random)[: 3 + seed]
    places = torch.stack((named, *(torch.randint(0, slots, (len(named),), generator=random) for _ in range(2))))
    rules = torch.rand(len(named), 3, generator=random) * 4 - 2
    rules[:, 2] = torch.tensor([1.0, 0.5, 1.0, 1.7])[torch.arange(len(named)) % 4]
    rules[torch.arange(len(named)) % 3 == 0, :2] = 0.0
    ops.penalise(ours, places.to(device), rules.to(device), *held)
    reference.penalise(want, places.to(device), rules.to(device), *held)
    assert torch.equal(ours, want)
    others = [row for row in range(rows) if row not in named.tolist()]
    assert torch.equal(ours[others], before[others]) and not torch.equal(ours, before)
    tail = wide[:, vocab:].to(device)
    assert torch.equal(ours.as_strided(tail.shape, ours.stride(), vocab), tail), "past the vocabulary"


def test_what_is_not_finite_stays_in_its_row(ops, device):
    logits = torch.zeros(3, 40, device=device)
    logits[1] = float("nan")
    held = tables(device, 3, 40, 1)
    places = torch.tensor([[0, 1, 2], [1, 2, 0], [0, 0, 0]], device=device)
    rules = torch.tensor([[0.5, 0.5, 1.2]] * 3, device=device)
    ops.penalise(logits, places, rules, *held)
    assert bool(torch.isfinite(logits[[0, 2]]).all()) and bool(torch.isnan(logits[1]).all())
    assert bool((logits[2] == 0).all()), "a row without a slot passes unchanged, whatever its rules say"
    ops.penalise(logits, places[:, :0], rules[:0], *held)
