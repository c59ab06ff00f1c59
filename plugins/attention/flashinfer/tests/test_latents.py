"""Latents around a flashinfer that records what it is asked: right results, one plan a step, capture and replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_flashinfer import TorchKernels, fake
from sglcore_plugin_flashinfer import attention as module
from sglcore_plugin_flashinfer import device, latents
from sglcore_plugin_flashinfer.attention import FlashInferAttention
from sglcore_plugin_flashinfer.numbers import Numbers
from sglcore_plugin_flashinfer.spec import LATENT

from sglcore.contracts.models import KVGroup
from sglcore.errors import PluginError
from sglcore.testing import AttentionConformance
from sglcore.testing.harness import PagedPool

RANK, ROPE, HEADS = 32, 16, 5


def backend(**given) -> FlashInferAttention:
    return FlashInferAttention(given.pop("flashinfer", None) or fake(), TorchKernels())


class TestAroundAFake(AttentionConformance):
    spec = replace(LATENT, probe="", platforms=("cpu",), dtypes=("float32",), head_dims=(64,), page_sizes=(1, 16))
    device = "cpu"
    test_unused_pages_are_never_read = test_a_poisoned_row_harms_no_other = None  # of FlashInfer's kernels, not ours
    test_decoding = test_long_prompt_in_chunks = test_sliding_window = test_soft_cap = None  # as test_planning has them

    def make(self):
        return backend()


class Decoding:
    """A pool with a few rows in it, and steps of one token each."""

    def __init__(self, ours: FlashInferAttention, lengths=(40, 5, 16)):
        self.group = KVGroup(kind="latent", layers=(3, 7), kv_heads=1, head_dim=RANK + ROPE)
        self.pool = PagedPool([self.group], pages=64, page_size=16)
        self.ours = ours
        self.rows = [self.pool.row(0) for _ in lengths]
        self.batches = self.pool.step(list(zip(self.rows, lengths, strict=True)))
        self.run(sum(lengths), self.ours.plan(self.batches))

    def next(self):
        self.batches = self.pool.step([(row, 1) for row in self.rows])
        return self.ours.plan(self.batches)

    def run(self, tokens, meta):
        q, new = torch.randn(tokens, HEADS, RANK + ROPE), torch.randn(tokens, RANK + ROPE)
        for layer in self.group.layers:
            self.ours.write_latent(layer, new[:, :RANK], new[:, RANK:], self.pool, meta)
            out = self.ours.attend_latent(layer, q[..., :RANK], q[..., RANK:], self.pool, meta, scale=0.2)
        return q, out

    def right(self, q, row, layer=7):
        pages = torch.tensor(self.rows[row].pages[0])
        k = self.pool.latent(layer)[pages].flatten(0, 2)[: self.rows[row].length]
        return (q[row] @ k.T * 0.2).softmax(-1) @ k[:, :RANK]


def test_one_plan_a_step_and_one_wrapper_for_all_sizes():
    ours = backend()
    for lengths in ((40, 5, 16), (3, 3)):
        work = Decoding(ours, lengths)
        for _ in range(2):
            q, out = work.run(len(lengths), work.next())
            for row in range(len(lengths)):
                torch.testing.assert_close(out[row], work.right(q, row), atol=1e-5, rtol=1e-5)
    prompts, tokens = ours._flashinfer.BatchMLAPagedAttentionWrapper.made
    assert (len(prompts.plans), len(tokens.plans)) == (2, 4)
    assert prompts.plans[-1].causal and not tokens.plans[-1].causal
    assert tokens.plans[-1].shape == (HEADS, RANK, ROPE, 16, torch.float32, torch.float32)
    assert prompts.backend == tokens.backend == "fa2"


def test_a_replay_reads_what_refresh_was_given(monkeypatch):
    ours = backend()
    work = Decoding(ours)
    meta = work.next()
    static = work.batches[0]
    work.run(3, meta)  # warms up
    (_, tokens) = ours._flashinfer.BatchMLAPagedAttentionWrapper.made
    planned, filled = len(tokens.plans), ours._kernels.filled
    monkeypatch.setattr(device, "capturing", lambda _: True)
    work.run(3, ours.plan((static,)))  # is recorded
    assert len(tokens.plans) == planned and ours._kernels.filled == filled + 1
    monkeypatch.setattr(device, "capturing", lambda _: False)
    address = tokens.plans[-1].indices.data_ptr()
    other = Decoding(ours, (7, 7))
    other.run(2, other.next())  # plans the same wrapper for other rows

    for _ in range(20):  # rows grow beyond a page
        work.pool.step([(row, 1) for row in work.rows])
    (coming,) = work.pool.step([(row, 1) for row in work.rows])
    static.page_table = coming.page_table
    static.kv_lens.copy_(coming.kv_lens)
    static.slots.copy_(coming.slots)
    static.kv_lens_host = coming.kv_lens_host
    for layer in work.group.layers:
        work.pool.latent(layer).copy_(torch.randn_like(work.pool.latent(layer)))
    ours.refresh(meta, (static,))
    q, out = work.run(3, meta)
    for row in range(3):
        torch.testing.assert_close(out[row], work.right(q, row), atol=1e-5, rtol=1e-5)
    assert tokens.plans[-1].indices.data_ptr() == address


def test_what_cannot_be_captured(monkeypatch):
    ours = backend()
    work = Decoding(ours)
    monkeypatch.setattr(device, "capturing", lambda _: True)
    with pytest.raises(PluginError, match="were run before"):
        work.run(3, work.next())
    with pytest.raises(PluginError, match="single tokens"):
        work.run(6, ours.plan(work.pool.step([(row, 2) for row in work.rows])))


def test_a_step_beyond_what_a_plan_holds_is_refused():
    def step(*counts: int) -> Numbers:
        ends, zeros = np.cumsum((0, *counts)).astype(np.int32), np.zeros(len(counts), np.int32)
        return Numbers(ends, ends, zeros, zeros, max(counts))

    assert latents.work_of(step(8192), 128, 132) == 8192 + 264
    assert latents.work_of(step(*[1] * 512), 16, 132) == 512 + 264
    variant = latents.LatentVariant(128, 512, 64, 16, torch.bfloat16, torch.bfloat16, 0.1)
    run = latents.LatentRun(fake(), variant, "fa3", torch.device("cpu"), decode=False)
    with pytest.raises(PluginError, match="17000 tokens of 128 heads"):
        run.plan(step(17000), torch.zeros(8, dtype=torch.int32))


@pytest.mark.parametrize(
    "given, hopper, there, wanted",
    [
        ("auto", True, ("fa2", "fa3"), "fa3"),
        ("auto", True, ("fa2",), "fa2"),
        ("auto", True, (), "fa3"),
        ("auto", False, ("fa3",), "fa2"),
        ("fa2", True, ("fa3",), "fa2"),
        ("fa3", True, ("fa2",), "fa3"),
    ],
)
def test_which_kernel(monkeypatch, tmp_path, given, hopper, there, wanted):
    monkeypatch.setenv(module.PREFILL, given)
    monkeypatch.setattr(device, "is_hopper", lambda _: hopper)
    for kernel in there:
        (tmp_path / f"mla-{kernel}").mkdir()
        (tmp_path / f"mla-{kernel}" / f"mla-{kernel}.so").touch()
    ours = backend(flashinfer=fake(aot_dir=str(tmp_path)))
    Decoding(ours)
    assert ours._flashinfer.BatchMLAPagedAttentionWrapper.made[0].backend == wanted
