"""Penalties and biases on a GPU: as on the CPU to the bit, without a wait, and what they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runner.test_shaping import batch, entry
from sglcore.runner.shaping import Shaping, penalise
from sglcore.runner.transfers import Shared, transfers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that this torch can use"),
]
VOCAB = 128256
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def pair(rows: int):
    """(shaping on the GPU with its kernel, shaping on the CPU step by step)."""
    pytest.importorskip("triton")
    from sglcore_plugin_cuda.ops import CudaOps
    from sglcore_plugin_cuda.platform import CudaPlatform

    launcher = CudaPlatform().launcher()
    ours = Shaping(rows, VOCAB, (2,), GPU, transfers(launcher, GPU), CudaOps().penalise)
    return ours, Shaping(rows, VOCAB, (2,), CPU, Shared())


def entries(rows: int):
    """Rows of six kinds in turn: the penalties, biases, a least length, several at once, and none."""
    random = np.random.default_rng(rows)
    kinds = [
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.4, "presence_penalty": -0.2},
        {"logit_bias": {int(t): float(b) for t, b in zip(range(0, 300, 7), random.normal(0, 9, 300), strict=False)}},
        {"min_new_tokens": 20, "presence_penalty": 1.0},
        {"repetition_penalty": 0.8, "frequency_penalty": 1.1, "logit_bias": {5: -100.0}},
        {},
    ]
    return [entry(r, random.integers(0, VOCAB, 40).tolist(), 30, **kinds[r % 6]) for r in range(rows)]


@pytest.mark.parametrize("rows", [1, 6, 64])
def test_equal_to_the_steps_on_the_cpu_and_never_waiting(rows):
    ours, theirs = pair(rows)
    seated = batch([], [], entered=entries(rows))
    now = batch(list(range(rows)), [40] * rows)
    random = torch.Generator().manual_seed(rows)
    for shaping in (ours, theirs):
        shaping.seats(seated)
    for step in range(4):
        want = torch.randn(rows, VOCAB, generator=random) * 5
        got, tokens = want.cuda(), torch.randint(0, VOCAB, (rows,), generator=random)
        sampled = tokens.cuda()
        if step:  # the first one compiles
            torch.cuda.set_sync_debug_mode("error")
        try:
            ours.apply(got, now)
            ours.forbid_end(got, now)
            ours.sampled(now, sampled)
            if step == 2:
                ours.seats(batch([], [], left=[0], entered=entries(rows)[:1]))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        theirs.apply(want, now)
        theirs.forbid_end(want, now)
        theirs.sampled(now, tokens)
        if step == 2:
            theirs.seats(batch([], [], left=[0], entered=entries(rows)[:1]))
        assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("rows", [1, 16, 64, 256])
def test_one_pass_beats_the_steps(rows):
    """Prints microseconds of both: python -m pytest -s -k beats."""
    from sglcore_plugin_cuda.ops import CudaOps

    counts = (torch.rand(rows + 1, VOCAB, device="cuda") < 0.002).to(torch.int32)
    prompt, bias = counts == 1, counts.float()
    logits = torch.randn(rows, VOCAB, device="cuda")
    index = torch.arange(rows, device="cuda")
    places, rules = torch.stack((index, index + 1, index + 1)), torch.tensor([[0.1, 0.1, 1.1]] * rows, device="cuda")
    taken = []
    for op in (CudaOps().penalise, penalise):
        for _ in range(3):
            op(logits, places, rules, counts, prompt, bias)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(20):
            op(logits, places, rules, counts, prompt, bias)
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) * 50)
    print(f"penalise, {rows} rows: {taken[0]:.0f} us in one kernel, {taken[1]:.0f} us step by step")
    assert taken[0] < taken[1]
