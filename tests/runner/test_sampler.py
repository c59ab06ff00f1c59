from __future__ import annotations

import pytest
import torch

from sglcore.runner.logprobs import token_logprobs
from sglcore.runner.sampler import CANDIDATES, Draw, _pick, gumbel, gumbel_at
from sglcore.runner.sampler import sample as sample_with

VOCAB = 40


def sample(logits: torch.Tensor, *draws: Draw) -> torch.Tensor:
    return sample_with(logits, list(draws), lambda scores: scores.argmax(-1))


def how(
    rows: int, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=None, position=0, at=None, most=True
) -> Draw:
    def column(value, dtype):
        return torch.as_tensor(value, dtype=dtype).expand(rows).clone()

    k = column(top_k, torch.int64)
    bounded = bool(((k > 0) & (k <= CANDIDATES)).all())
    return Draw(
        rows=None if at is None else torch.tensor(at),
        temperature=column(temperature, torch.float32),
        top_k=k,
        top_p=column(top_p, torch.float32),
        min_p=column(min_p, torch.float32),
        seed=torch.arange(rows) if seed is None else column(seed, torch.int64),
        position=column(position, torch.int64),
        ranked=bool((k > 0).any()) or top_p < 1,
        most=int(k.max()) if bounded and most else 0,
        floor=min_p > 0,
    )


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 2


def test_greedy_is_argmax(logits):
    assert sample(logits).item() == logits.argmax().item()


def test_draws_follow_the_softmax(logits):
    n = 40_000
    tokens = sample(logits.expand(n, VOCAB), how(n, temperature=0.7))
    share = torch.bincount(tokens, minlength=VOCAB) / n
    expected = (logits[0] / 0.7).softmax(-1)
    assert (share - expected).abs().max() < 4 * (expected.max() / n).sqrt()


def kept_by(probs: torch.Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> set[int]:
    """The definition: top-k, then top-p of what is left, then min-p."""
    ordered = probs.sort(descending=True)
    keep = torch.arange(len(probs)) < (top_k or len(probs))
    mass = ordered.values * keep / (ordered.values * keep).sum()
    keep &= mass.cumsum(-1) - mass <= top_p
    keep &= ordered.values >= min_p * ordered.values[0]
    return set(ordered.indices[keep].tolist())


FILTERS = [
    {"top_k": 5},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"top_k": 8, "top_p": 0.7},
    {"top_k": 8, "top_p": 0.9, "min_p": 0.1},
    {"top_k": 10_000, "top_p": 0.8},
    {"top_p": 1e-9},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("most", [True, False])
def test_filters_keep_what_they_should(logits, options, most):
    seen = set(sample(logits.expand(20_000, VOCAB), how(20_000, most=most, **options)).tolist())
    assert seen == kept_by(logits[0].softmax(-1), **options)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_every_way_of_ranking_draws_the_same(spread):
    """Few candidates, many, or the sorted vocabulary: a row must not notice which way its neighbours made it go."""
    rows, vocab = 64, 3000
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(1)) * spread
    for options in ({"top_k": 30}, {"top_k": 1000, "top_p": 0.9}, {"top_p": 0.7, "min_p": 0.01}, {"top_k": 2000}):
        ways = [sample(logits, how(rows, most=most, **options)) for most in (True, False)]
        draw = how(rows, most=False, **options)
        ways.append(_pick(*logits.sort(dim=-1, descending=True), logits, draw)[0])
        assert torch.equal(ways[0], ways[1]) and torch.equal(ways[0], ways[2])


def test_what_ties_with_the_last_rank_stays():
    logits = torch.tensor([[3.0, 2.0, 2.0, 2.0, 0.0]])
    for options, kept in (({"top_k": 2}, {0, 1, 2, 3}), ({"top_p": 0.6}, {0, 1, 2, 3}), ({"top_k": 1}, {0})):
        for most in (True, False):
            assert set(sample(logits.expand(5000, 5), how(5000, most=most, **options)).tolist()) == kept


def test_a_seeded_row_draws_the_same_in_any_batch(logits):
    alone = sample(logits, how(1, seed=7, position=3))
    batch = torch.randn(9, VOCAB)
    batch[4] = logits[0]
    assert sample(batch, how(9, seed=7, position=3))[4] == alone[0]
    kinds = [how(1, seed=7, position=3, at=[4]), how(2, top_k=4, at=[0, 7]), how(1, top_p=0.5, at=[2])]
    assert sample(batch, *kinds)[4] == alone[0]


def test_rows_of_several_kinds(logits):
    batch = logits.expand(4, VOCAB)
    tokens = sample(batch, how(1, seed=1, at=[1]), how(2, seed=1, top_k=3, at=[0, 3]))
    assert tokens[2] == logits.argmax()
    assert tokens[1] == sample(logits, how(1, seed=1))[0]
    assert tokens[0] == tokens[3] == sample(logits, how(1, seed=1, top_k=3))[0]


def test_the_logits_stay_as_they_are(logits):
    batch = logits.repeat(3, 1)
    for draw in (how(3), how(3, min_p=0.3), how(3, top_k=3), how(3, top_p=0.5)):
        sample(batch, draw)
        assert torch.equal(batch, logits.repeat(3, 1))


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


def test_noise_of_some_tokens_is_theirs():
    seed, position = torch.arange(50), torch.arange(50) * 7
    whole = gumbel(seed, position, 5000)  # large enough to be made in blocks
    ids = torch.randint(0, 5000, (50, 9))
    assert torch.equal(gumbel_at(seed, position, ids), whole.gather(-1, ids))


def test_logprobs(logits):
    expected = logits[0].log_softmax(-1)
    asked = token_logprobs(logits.expand(2, VOCAB), torch.tensor([3, 8]), [4, 0], [(), (5, 1)])
    two = asked.told([tensor.numpy() for tensor in asked.tensors])
    assert [entry.token_id for entry in two] == [3, 8]
    assert [entry.logprob for entry in two] == pytest.approx(expected[[3, 8]].tolist(), abs=1e-6)
    assert [i for _, i in two[0].top] == expected.topk(4).indices.tolist()
    assert (two[0].ids, two[1].top) == ([], [])
    assert [i for _, i in two[1].ids] == [5, 1]
    assert [value for value, _ in two[1].ids] == pytest.approx(expected[[5, 1]].tolist(), abs=1e-6)
