"""Argmax and draw against torch and against the reference noise; see conftest for where the kernels run."""

from __future__ import annotations

import pytest
import torch

from sglcore.layers import reference

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
noise = pytest.importorskip("sglcore_plugin_cuda.kernels.gumbel")
GAP = 1e-4  # scores closer than this may be told apart either way


@pytest.fixture
def ops(device):
    from sglcore_plugin_cuda.ops import CudaOps

    return CudaOps()


def noisy(logits, temperature, seed, position, min_p):
    """The scores whose argmax a draw is, float32 [rows, vocab], step by step as the core's sampler goes."""
    hot = (temperature > 0)[:, None]
    scores = torch.where(hot, logits / temperature.clamp(min=1e-9)[:, None], logits)
    least = scores.amax(-1, keepdim=True) + min_p.log()[:, None]
    kept = scores.masked_fill(hot & (scores < least), float("-inf"))
    return torch.where(hot, kept + reference.gumbel(seed, position, logits.shape[-1]), logits)


def rules(rows: int, device: str) -> tuple[torch.Tensor, ...]:
    """(temperature, seed, position, min_p), greedy rows and others in turn."""
    kind = torch.arange(rows) % 5
    temperature = torch.tensor([0.0, 1.0, 0.6, 1.3, 0.9])[kind]
    min_p = torch.tensor([0.5, 0.0, 0.0, 0.05, 0.4])[kind]
    seed = torch.randint(-(1 << 62), 1 << 62, (rows,))
    position = torch.randint(0, 1 << 20, (rows,))
    return tuple(x.to(device) for x in (temperature, seed, position, min_p))


@pytest.mark.parametrize("rows, vocab", [(1, 9), (1, 5000), (5, 3001), (11, 1024), (40, 77)])
def test_draw_is_the_argmax_of_noisy_scores(ops, device, rows, vocab):
    torch.manual_seed(vocab)
    logits = torch.randn(rows, vocab + 3, device=device)[:, :vocab] * 4
    given = rules(rows, device)
    tokens, finite = ops.draw(logits, *given)
    scores = noisy(logits, *given)
    short = scores.amax(-1) - scores.gather(-1, tokens[:, None]).squeeze(-1)
    assert float(short.max()) < GAP
    assert tokens.dtype == torch.int64 and finite.dtype == torch.bool and bool(finite.all())
    greedy = given[0] == 0
    assert torch.equal(tokens[greedy], logits.argmax(-1)[greedy])


def test_draw_in_a_half_type(ops, device):
    logits = torch.randn(6, 2000, device=device).half()
    given = rules(6, device)
    assert torch.equal(ops.draw(logits, *given)[0], ops.draw(logits.float(), *given)[0])


def test_draws_follow_the_softmax(ops, device):
    """Draws from four tokens, alone and with min_p; few of them in the interpreter."""
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05], device=device)
    many = 4000 if device == "cuda" else 60
    logits = chances.log().expand(many, 4).contiguous()
    seed = torch.arange(many, device=device)
    ones, zeros = torch.ones(many, device=device), torch.zeros(many, device=device)
    tokens = ops.draw(logits, ones, seed, seed * 0 + 3, zeros)[0]
    share = tokens.bincount(minlength=4).float() / many
    assert float((share - chances).abs().max()) < 4 * 0.5 / many**0.5
    kept = ops.draw(logits, ones, seed, seed * 0 + 3, zeros + 0.4)[0].bincount(minlength=4)
    assert int(kept[2]) == int(kept[3]) == 0 and int(kept[0]) > int(kept[1]) > 0


def test_what_is_not_finite_is_told_and_harms_no_other(ops, device):
    torch.manual_seed(1)
    logits = torch.randn(8, 2500, device=device)
    given = rules(8, device)
    before = ops.draw(logits, *given)[0]
    bad = {1: float("nan"), 2: float("inf"), 4: float("-inf"), 6: float("nan")}
    for row, value in bad.items():
        logits[row, 17 * row] = value
    logits[6] = float("nan")
    tokens, finite = ops.draw(logits, *given)
    whole = [row not in bad for row in range(8)]
    assert finite.tolist() == whole
    assert torch.equal(tokens[finite], before[finite])
    assert bool(((tokens >= 0) & (tokens < 2500)).all()), "not a token of the vocabulary"


def test_argmax_takes_the_first_of_equals(ops, device):
    scores = torch.randn(4, 4099, device=device)
    scores[0, [40, 1500, 4098]] = 50.0
    scores[1] = float("-inf")
    scores[2, 4098] = 50.0
    scores[3, :4000] = float("-inf")
    got = ops.argmax(scores)
    assert got[:3].tolist() == [40, 0, 4098]
    assert int(got[3]) == int(scores[3].argmax())
    assert torch.equal(ops.argmax(scores[:, 1:4000:1][2:3]), scores[2:3, 1:4000].argmax(-1))
    scores[2] = float("nan")
    assert 0 <= int(ops.argmax(scores)[2]) < 4099


@triton.jit
def _noise_rows(seed, position, out, VOCAB: tl.constexpr):
    row = tl.program_id(0)
    token = tl.arange(0, VOCAB)
    key = noise.noise_key(tl.load(seed + row), tl.load(position + row))
    tl.store(out + row * VOCAB + token, noise.gumbel(key, token))


def test_noise_is_that_of_the_reference_bit_by_bit(device):
    """The integers agree; the logarithms after them differ by roundings only."""
    seed = torch.tensor([0, 1, -1, 2**62 + 12345, -(2**63)], device=device)
    position = torch.tensor([0, 7, 2**31 - 1, 99, 2**33], device=device)
    out = torch.empty(5, 512, device=device)
    _noise_rows[(5,)](seed, position, out, 512)
    want = reference.gumbel(seed, position, 512)
    torch.testing.assert_close(out, want, atol=2e-6, rtol=2e-6)
