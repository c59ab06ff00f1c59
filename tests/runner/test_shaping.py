"""Penalties, biases and the least length, against their definitions, through rows that come and go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from sglcore.batch import Batch, RowEntry
from sglcore.layers import reference
from sglcore.request import SamplingParams
from sglcore.runner.shaping import Shaping, penalise
from sglcore.runner.transfers import Shared

VOCAB, ROWS, EOS = 30, 6, 2
CPU = torch.device("cpu")


def entry(row: int, tokens: list[int], prompt: int, **sampling) -> RowEntry:
    params = SamplingParams(**sampling)
    known = np.array(tokens if params.follows_tokens else [], np.int32)
    return RowEntry(row=row, sampling=params, seed=0, branch=0, pages=(), prompt=prompt, tokens=known)


def batch(rows: list[int], lengths: list[int], samples: list[bool] | None = None, **changes) -> Batch:
    """A step in which each row computes the last of its `lengths` tokens."""
    ones = np.ones(len(rows), np.int32)
    flags = np.array([True] * len(rows) if samples is None else samples)
    starts = np.array(lengths, np.int32) - 1
    return Batch(1, np.array(rows, np.int32), starts, ones, flags, flags, np.empty(0, np.int32), **changes)


def penalized(logits, prompt, output, *, frequency_penalty=0.0, presence_penalty=0.0, repetition_penalty=1.0):
    """Transformers' repetition penalty over prompt and output, then OpenAI's two over the output."""
    row = logits.clone()
    if repetition_penalty != 1:
        theirs = transformers.RepetitionPenaltyLogitsProcessor(repetition_penalty)
        row = theirs(torch.tensor([prompt + output]), row[None])[0]
    counts = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=VOCAB)
    return row - counts * frequency_penalty - (counts > 0) * presence_penalty


PENALTIES = [
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.5},
    {"frequency_penalty": 0.7},
    {"presence_penalty": -1.5},
    {"repetition_penalty": 1.2, "frequency_penalty": -0.3, "presence_penalty": 0.9},
]


def test_penalties_follow_each_token():
    shaping, rng = Shaping(ROWS, VOCAB, (EOS,), CPU, Shared()), np.random.default_rng(0)
    prompts = [rng.integers(0, VOCAB, 5 + r).tolist() for r in range(5)]
    outputs: list[list[int]] = [[] for _ in prompts]
    shaping.seats(batch([], [], entered=[entry(r, p, len(p), **PENALTIES[r]) for r, p in enumerate(prompts)]))
    for step in range(12):
        rows = [r for r in range(5) if (r + step) % 3]  # not every row is in every step
        logits = torch.randn(len(rows), VOCAB)
        now = batch(rows, [len(prompts[r]) + len(outputs[r]) for r in rows])
        expected = [penalized(logits[i], prompts[r], outputs[r], **PENALTIES[r]) for i, r in enumerate(rows)]
        shaping.apply(logits, now)
        assert torch.allclose(logits, torch.stack(expected), atol=1e-6)
        tokens = torch.from_numpy(rng.integers(0, VOCAB, len(rows)))
        shaping.sampled(now, tokens)
        for r, token in zip(rows, tokens.tolist(), strict=True):
            outputs[r].append(token)


def test_a_row_seated_again_is_rebuilt_from_its_tokens():
    shaping = Shaping(ROWS, VOCAB, (EOS,), CPU, Shared())
    prompt, output = [4, 5, 5], [7, 7, 8]
    shaping.seats(batch([], [], entered=[entry(0, prompt, 3, **PENALTIES[4]), entry(1, [9], 1, **PENALTIES[0])]))
    for token in output:
        shaping.sampled(batch([0], [3]), torch.tensor([token]))
    shaping.seats(batch([], [], left=[0]))
    shaping.seats(batch([], [], entered=[entry(3, prompt + output, 3, **PENALTIES[4])]))
    logits = torch.randn(1, VOCAB)
    expected = penalized(logits[0], prompt, output, **PENALTIES[4])
    shaping.apply(logits, batch([3], [6]))
    assert torch.allclose(logits[0], expected, atol=1e-6)


@pytest.mark.parametrize("left", [[2], []], ids=["told", "not told"])
def test_the_next_in_a_seat_inherits_nothing(left):
    shaping = Shaping(ROWS, VOCAB, (EOS,), CPU, Shared())
    shaped = entry(2, [1, 1], 2, repetition_penalty=2.0, logit_bias={3: 50.0}, min_new_tokens=9)
    shaping.seats(batch([], [], entered=[shaped]))
    shaping.seats(batch([], [], left=left, entered=[entry(2, [1, 1], 2)]))
    logits = torch.randn(1, VOCAB)
    before = logits.clone()
    now = batch([2], [2])
    shaping.apply(logits, now)
    shaping.forbid_end(logits, now)
    assert torch.equal(logits, before)


def test_nothing_is_made_until_somebody_asks():
    shaping = Shaping(ROWS, VOCAB, (EOS,), CPU, Shared())
    shaping.seats(batch([], [], entered=[entry(0, [1], 1), entry(1, [1], 1, min_new_tokens=3)]))
    assert shaping.penalties is None
    shaping.seats(batch([], [], entered=[entry(2, [1], 1, presence_penalty=1.0)]))
    assert shaping.penalties is not None and shaping.penalties.counts.shape[0] < ROWS


def test_biases_of_several_rows():
    shaping = Shaping(ROWS, VOCAB, (EOS,), CPU, Shared())
    biases = {0: {1: 5.0, 7: -100.0}, 4: {1: -1.0}}
    shaping.seats(batch([], [], entered=[entry(r, [1], 1, logit_bias=b) for r, b in biases.items()]))
    logits = torch.randn(3, VOCAB)
    expected = logits.clone()
    expected[0, 1] -= 1.0
    expected[2, 1] += 5.0
    expected[2, 7] -= 100.0
    shaping.apply(logits, batch([4, 1, 0], [1, 1, 1]))
    assert torch.allclose(logits, expected)


def test_the_end_is_forbidden_until_the_least_length():
    shaping = Shaping(ROWS, VOCAB, (EOS,), CPU, Shared())
    asked = [entry(0, [1, 1], 2, min_new_tokens=3, stop_token_ids=(5, EOS)), entry(1, [1], 1, min_new_tokens=1)]
    shaping.seats(batch([], [], entered=asked))
    for generated, forbidden in ((0, [EOS, 5]), (1, [EOS, 5]), (2, [EOS, 5]), (3, [])):
        logits = torch.zeros(2, VOCAB)
        shaping.forbid_end(logits, batch([0, 1], [2 + generated, 1 + generated]))
        assert torch.nonzero(logits[0].isinf()).flatten().tolist() == forbidden
        assert torch.nonzero(logits[1].isinf()).flatten().tolist() == ([EOS] if generated < 1 else [])


def test_rows_in_mid_prompt_are_left_alone():
    shaping = Shaping(ROWS, VOCAB, (EOS,), CPU, Shared())
    shaping.seats(
        batch([], [], entered=[entry(0, [1, 2, 3], 3, **PENALTIES[4], min_new_tokens=4, logit_bias={1: 9.0})])
    )
    now = batch([0], [2], samples=[False])
    logits = torch.randn(1, VOCAB)
    before = logits.clone()
    shaping.apply(logits, now)
    shaping.forbid_end(logits, now)
    shaping.sampled(now, torch.tensor([7]))
    assert torch.equal(logits, before)
    assert shaping.penalties is not None and not shaping.penalties.counts.any()


def test_slots_are_used_again():
    shaping = Shaping(200, VOCAB, (EOS,), CPU, Shared())
    for step in range(400):
        row = step % 200
        shaping.seats(batch([], [], left=[row], entered=[entry(row, [1], 1, presence_penalty=1.0)]))
        if step >= 3:
            shaping.seats(batch([], [], left=[(step - 3) % 200]))
    assert shaping.penalties is not None and shaping.penalties.slots.size <= 8


@pytest.mark.parametrize("seed", range(5))
def test_the_steps_one_by_one_are_the_reference(seed):
    """What stands in for the op where a table lacks it."""
    random = torch.Generator().manual_seed(seed)
    slots, count = 5, 1 + seed
    counts = (torch.randint(0, 9, (slots, VOCAB), generator=random) - 6).clamp(min=0).to(torch.int32)
    prompt, bias = torch.rand(slots, VOCAB, generator=random) < 0.3, torch.randn(slots, VOCAB, generator=random)
    for table in (counts, prompt, bias):
        table[0] = 0
    picked = [torch.randint(0, slots, (count,), generator=random) for _ in range(2)]
    places = torch.stack((torch.randperm(ROWS, generator=random)[:count], *picked))
    rules = torch.rand(count, 3, generator=random) * 2 - 1
    rules[:, 2] = torch.tensor([1.0, 1.3, 0.6])[torch.arange(count) % 3]
    ours = torch.randn(ROWS, VOCAB, generator=random)
    want = ours.clone()
    penalise(ours, places, rules, counts, prompt, bias)
    reference.penalise(want, places, rules, counts, prompt, bias)
    assert torch.equal(ours, want)


def test_all_shaped_rows_go_through_one_call():
    """Of the op that the table has: rows with penalties, with biases and with both; none for a batch without."""
    calls = []

    def op(logits, places, rules, *tables):
        calls.append(places.tolist())
        penalise(logits, places, rules, *tables)

    shaping = Shaping(ROWS, VOCAB, (EOS,), CPU, Shared(), op)
    asked = [{"presence_penalty": 1.0}, {"logit_bias": {3: 2.0}}, {"presence_penalty": 1.0, "logit_bias": {4: -1.0}}]
    seated = [entry(r, [5], 0, **sampling) for r, sampling in enumerate(asked)]
    shaping.seats(batch([], [], entered=[*seated, entry(3, [1], 1), entry(4, [1], 1, min_new_tokens=2)]))
    logits = torch.zeros(4, VOCAB)
    shaping.apply(logits, batch([2, 3, 0, 1], [1, 1, 1, 1]))
    assert calls == [[[0, 2, 3], [2, 1, 0], [2, 0, 1]]]
    assert (float(logits[0, 5]), float(logits[0, 4]), float(logits[2, 5]), float(logits[3, 3])) == (-1, -1, -1, 2)
    shaping.apply(logits, batch([3, 4], [1, 1]))
    shaping.apply(logits, batch([0, 1], [1, 1], samples=[False, False]))
    assert len(calls) == 1
