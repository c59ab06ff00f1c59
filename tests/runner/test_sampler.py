from __future__ import annotations

import pytest
import torch

from sglcore.runner.sampler import SamplingBatch, gumbel, token_logprobs
from sglcore.runner.sampler import sample as sample_with

VOCAB = 40


def sample(logits: torch.Tensor, settings: SamplingBatch) -> torch.Tensor:
    return sample_with(logits, settings, lambda scores: scores.argmax(-1))


def how(rows: int, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=None, position=None) -> SamplingBatch:
    def column(value, dtype):
        return torch.as_tensor(value, dtype=dtype).expand(rows).clone()

    t = column(temperature, torch.float32)
    return SamplingBatch(
        temperature=t,
        top_k=column(top_k, torch.int64),
        top_p=column(top_p, torch.float32),
        min_p=column(min_p, torch.float32),
        seed=torch.arange(rows) if seed is None else column(seed, torch.int64),
        position=column(0 if position is None else position, torch.int64),
        greedy=bool((t == 0).all()),
        filtered=bool(top_k or top_p < 1 or min_p),
    )


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 2


def test_greedy_is_argmax(logits):
    assert sample(logits, how(1, temperature=0.0)).item() == logits.argmax().item()


def test_draws_follow_the_softmax(logits):
    n = 40_000
    tokens = sample(logits.expand(n, VOCAB), how(n, temperature=0.7))
    share = torch.bincount(tokens, minlength=VOCAB) / n
    expected = (logits[0] / 0.7).softmax(-1)
    assert (share - expected).abs().max() < 4 * (expected.max() / n).sqrt()


@pytest.mark.parametrize("kind", ["top_k", "top_p", "min_p"])
def test_filters_keep_what_they_should(logits, kind):
    probs = logits[0].softmax(-1)
    ordered = probs.sort(descending=True)
    if kind == "top_k":
        options, kept = {"top_k": 5}, set(ordered.indices[:5].tolist())
    elif kind == "top_p":
        before = ordered.values.cumsum(-1) - ordered.values
        options, kept = {"top_p": 0.6}, set(ordered.indices[before <= 0.6].tolist())
    else:
        options, kept = {"min_p": 0.2}, set(torch.nonzero(probs >= 0.2 * probs.max()).flatten().tolist())
    seen = set(sample(logits.expand(20_000, VOCAB), how(20_000, **options)).tolist())
    assert seen == kept


def test_a_seeded_row_draws_the_same_in_any_batch(logits):
    alone = sample(logits, how(1, seed=7, position=3))
    batch = torch.randn(9, VOCAB)
    batch[4] = logits[0]
    settings = how(9, seed=7, position=3)
    settings.seed = torch.tensor([1, 2, 3, 4, 7, 5, 6, 8, 9])
    assert sample(batch, settings)[4] == alone[0]


def test_mixed_greedy_and_sampled_rows(logits):
    settings = how(2)
    settings.temperature = torch.tensor([0.0, 1.0])
    tokens = sample(logits.expand(2, VOCAB), settings)
    assert tokens[0] == logits.argmax()
    assert tokens[1] == sample(logits, how(1, seed=1))[0]


def test_noise_is_standard_gumbel_and_differs_by_seed_position_and_token():
    noise = gumbel(torch.arange(200), torch.zeros(200, dtype=torch.int64), 1000)
    assert torch.isfinite(noise).all()
    assert abs(noise.mean().item() - 0.5772) < 0.02
    assert abs(noise.var().item() - 1.6449) < 0.05
    other = gumbel(torch.arange(200), torch.ones(200, dtype=torch.int64), 1000)
    correlation = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]
    assert abs(correlation) < 0.01
    neighbours = torch.corrcoef(torch.stack([noise[:-1].flatten(), noise[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 0.01


def test_logprobs(logits):
    expected = logits[0].log_softmax(-1)
    (entry,) = token_logprobs(logits, torch.tensor([3]), 4)
    assert entry.token_id == 3 and entry.logprob == pytest.approx(expected[3].item(), abs=1e-6)
    assert [i for _, i in entry.top] == expected.topk(4).indices.tolist()
    assert token_logprobs(logits, torch.tensor([3]), 0)[0].top == []
