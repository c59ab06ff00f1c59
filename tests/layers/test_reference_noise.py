"""The noise of `layers.reference`, which kernels are held to, is the one that the core's sampler makes."""

from __future__ import annotations

import torch

from sglcore.layers import reference
from sglcore.runner import sampler

SEEDS = torch.tensor([0, 1, -1, 2**62 + 7, -(2**63), 123456789])
POSITIONS = torch.tensor([0, 1, 2**31 - 1, 17, 2**33, 4096])


def test_noise_is_the_same_to_the_bit():
    assert torch.equal(reference.gumbel(SEEDS, POSITIONS, 3000), sampler.gumbel(SEEDS, POSITIONS, 3000))
    ids = torch.randint(0, 150_000, (len(SEEDS), 40))
    assert torch.equal(reference.gumbel_at(SEEDS, POSITIONS, ids), sampler.gumbel_at(SEEDS, POSITIONS, ids))


def test_draw_is_what_the_sampler_draws():
    torch.manual_seed(2)
    logits = torch.randn(6, 500) * 3
    temperature, min_p = torch.tensor([0.7, 1.0, 1.4, 0.9, 1.0, 2.0]), torch.tensor([0.0, 0.1, 0.3, 0.0, 0.9, 0.05])
    nothing = torch.zeros(6, dtype=torch.int64)
    how = sampler.Draw(None, temperature, SEEDS, POSITIONS, nothing, torch.ones(6), min_p, floor=True)
    want = sampler.sample(logits, [how], lambda scores: scores.argmax(-1))
    tokens, finite = reference.draw(logits, temperature, SEEDS, POSITIONS, min_p)
    assert torch.equal(tokens, want) and bool(finite.all())
    greedy, finite = reference.draw(logits, temperature * 0, SEEDS, POSITIONS, min_p)
    assert torch.equal(greedy, logits.argmax(-1))
    logits[1, 3], logits[2, 4] = float("nan"), float("-inf")
    assert reference.draw(logits, temperature, SEEDS, POSITIONS, min_p)[1].tolist() == [True, False, False] + [True] * 3
