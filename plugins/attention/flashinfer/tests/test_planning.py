"""What is planned and when, against a flashinfer that records it; and right results from the buffers it was given."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_flashinfer import TorchKernels, attention, fake
from sglcore_plugin_flashinfer import attention as module
from sglcore_plugin_flashinfer import device, modules
from sglcore_plugin_flashinfer.attention import FlashInferAttention
from sglcore_plugin_flashinfer.numbers import Variant, numbers_of
from sglcore_plugin_flashinfer.spec import ATTENTION
from sglcore_plugin_flashinfer.workspace import LIMIT, Workspace, decode_bytes, prefill_bytes, usual_bytes

from sglcore.contracts.models import KVGroup
from sglcore.errors import ConfigError, PluginError
from sglcore.testing import AttentionConformance
from sglcore.testing.harness import PagedPool

ON_CPU = replace(ATTENTION, probe="", platforms=("cpu",), dtypes=("float32",), head_dims=(64,))
LLAMA = Variant(32, 8, 128, 16, torch.bfloat16, torch.bfloat16, 0.1, 0, 0.0)


def backend(**given) -> FlashInferAttention:
    return FlashInferAttention(given.pop("flashinfer", None) or fake(), TorchKernels())


class TestAroundAFake(AttentionConformance):
    """All that is planned, read back from the buffers that the wrappers were given."""

    spec = ON_CPU
    device = "cpu"
    test_unused_pages_are_never_read = test_a_poisoned_row_harms_no_other = None  # of FlashInfer's kernels, not ours

    def make(self):
        return backend()


class TestFreshPromptsAroundAFake(TestAroundAFake):
    """The same where FlashAttention 3 serves prompts: what no cache knew is read where the layer left it."""

    @pytest.fixture(autouse=True)
    def hopper(self, monkeypatch):
        monkeypatch.setenv(module.PREFILL, "fa3")
        monkeypatch.setattr(device, "is_hopper", lambda _: True)


class Decoding:
    """A pool with a few rows in it, and steps of one token each."""

    def __init__(self, ours: FlashInferAttention, lengths=(40, 5, 16), heads=8, page_size=16):
        self.group = KVGroup(layers=(3, 7), kv_heads=2, head_dim=64)
        self.pool = PagedPool([self.group], pages=64, page_size=page_size)
        self.ours, self.heads = ours, heads
        self.rows = [self.pool.row(0) for _ in lengths]
        self.batches = self.pool.step(list(zip(self.rows, lengths, strict=True)))
        self.run(sum(lengths), self.ours.plan(self.batches))

    def next(self):
        self.batches = self.pool.step([(row, 1) for row in self.rows])
        return self.ours.plan(self.batches)

    def run(self, tokens, meta, layers=(3, 7), **options):
        q = torch.randn(tokens, self.heads, 64)
        k, v = torch.randn(tokens, 2, 64), torch.randn(tokens, 2, 64)
        for layer in layers:
            self.ours.write_kv(layer, k, v, self.pool, meta)
            out = self.ours.attend(layer, q, self.pool, meta, scale=0.125, **options)
        return q, out

    def right(self, q, row, layer=7, **options):
        pages = torch.tensor(self.rows[row].pages[0])
        k, v = (x[pages].flatten(0, 1)[: self.rows[row].length] for x in self.pool.layer(layer))
        given = {"sm_scale": 0.125, "logits_soft_cap": 0.0, "window_left": -1, **options}
        return attention(q[row : row + 1], k, v, given)[0]


def test_numbers_of_rows():
    work = Decoding(backend())
    work.next()
    numbers = numbers_of(work.batches[0])
    assert numbers.indptr.tolist() == [0, 3, 4, 6]
    assert numbers.last.tolist() == [9, 6, 1]
    assert numbers.q_indptr.tolist() == [0, 1, 2, 3]
    assert (numbers.rows, numbers.pages, numbers.longest) == (3, 6, 1)
    assert all(a.dtype == np.int32 for a in (numbers.indptr, numbers.last, numbers.kv_lens, numbers.q_indptr))
    padded = replace(work.batches[0], kv_lens_host=np.array([41, 0, 1], np.int32))
    assert numbers_of(padded).last.tolist() == [9, 0, 1]


def test_nothing_is_asked_of_the_device(monkeypatch):
    """Whatever would wait for a GPU raises: lengths come from the host's copies."""
    ours = backend()
    work = Decoding(ours)
    batches = work.pool.step([(row, 1) for row in work.rows])
    kernels = ours._kernels
    for name in ("item", "tolist", "cpu", "__bool__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("asks the device"))
    monkeypatch.setattr(kernels, "fill_indices", lambda *_: None)
    meta = ours.plan(batches)
    run = ours._decode_run(meta.groups[0], LLAMA._replace(heads=8, kv_heads=2, head_dim=64), False)
    monkeypatch.setattr(run.wrapper, "plan", lambda *_, **__: None)
    run.plan(meta.groups[0].numbers)
    run._planned, run._fast = True, lambda *_, **__: None
    run.plan(meta.groups[0].numbers)


def test_one_plan_a_step_and_a_fast_one_from_the_second_on():
    ours = backend()
    work = Decoding(ours)
    for step in range(3):
        q, out = work.run(3, work.next())
        for row in range(3):
            torch.testing.assert_close(out[row], work.right(q, row))
        (wrapper,) = ours._flashinfer.BatchDecodeWithPagedKVCacheWrapper.made
        assert (len(wrapper.plans), wrapper.fast) == (step + 1, step)
    assert wrapper.use_tensor_cores
    assert wrapper.plans[-1].shape == (8, 2, 64, 16)
    assert wrapper.plans[-1].options == {
        "window_left": -1,
        "logits_soft_cap": 0.0,
        "q_data_type": torch.float32,
        "kv_data_type": torch.float32,
        "sm_scale": 0.125,
    }
    assert ours._kernels.filled == 4  # once a step, the prompts' included


def test_few_query_heads_a_key_head_decode_without_tensor_cores():
    for heads, wanted in ((2, False), (4, False), (6, False), (8, True), (10, True)):
        ours = backend()
        work = Decoding(ours, heads=heads)
        work.run(3, work.next())
        assert ours._flashinfer.BatchDecodeWithPagedKVCacheWrapper.made[0].use_tensor_cores is wanted


def test_windows_and_caps_have_wrappers_of_their_own():
    ours = backend()
    work = Decoding(ours)
    meta = work.next()
    asked = ({}, {"window": 4}, {"soft_cap": 2.0})
    for options, meant in zip(asked, ({}, {"window_left": 3}, {"logits_soft_cap": 2.0}), strict=True):
        q, out = work.run(3, meta, **options)
        torch.testing.assert_close(out[0], work.right(q, 0, **meant), atol=1e-5, rtol=1e-5)
    assert len(ours._flashinfer.BatchDecodeWithPagedKVCacheWrapper.made) == 3


def test_a_replay_reads_what_refresh_was_given(monkeypatch):
    """Warm up, capture, refresh, replay: tensors change in place, the wrapper and all its addresses stay."""
    ours = backend()
    work = Decoding(ours)
    meta = work.next()
    static = work.batches[0]
    work.run(3, meta)  # warms up
    monkeypatch.setattr(device, "capturing", lambda _: True)
    filled = ours._kernels.filled
    work.run(3, meta)  # is recorded
    assert ours._kernels.filled == filled + 1, "the page indices must be written in the recorded pass too"
    again = ours.plan((static,))
    work.run(3, again)  # likewise where the step is planned again while it is recorded
    monkeypatch.setattr(device, "capturing", lambda _: False)
    (wrapper,) = ours._flashinfer.BatchDecodeWithPagedKVCacheWrapper.made
    assert len(wrapper.plans) == 1, "a recorded pass must plan nothing"
    addresses = [x.data_ptr() for x in (wrapper.indptr, wrapper.indices, wrapper.last, wrapper.workspace)]

    for _ in range(20):  # rows grow beyond a page
        work.pool.step([(row, 1) for row in work.rows])
    (coming,) = work.pool.step([(row, 1) for row in work.rows])
    table = torch.full_like(static.page_table, 2**30)
    wide = torch.cat((table, table), 1)[:, : coming.page_table.shape[1]]
    wide[:, : coming.page_table.shape[1]] = coming.page_table
    static.page_table = wide
    static.kv_lens.copy_(coming.kv_lens)
    static.slots.copy_(coming.slots)
    static.kv_lens_host = coming.kv_lens_host
    for keys in work.pool._layers.values():
        for tensor in keys:
            tensor.copy_(torch.randn_like(tensor))
    for group in meta.groups:
        group.batch = static
    ours.refresh(meta, (static,))
    assert len(wrapper.plans) == 2 and wrapper.fast == 1
    q, out = work.run(3, meta)
    for row in range(3):
        torch.testing.assert_close(out[row], work.right(q, row), atol=1e-5, rtol=1e-5)
    assert addresses == [x.data_ptr() for x in (wrapper.indptr, wrapper.indices, wrapper.last, wrapper.workspace)]


def test_prompts_are_not_captured_and_strange_steps_neither(monkeypatch):
    ours = backend()
    work = Decoding(ours)
    monkeypatch.setattr(device, "capturing", lambda _: True)
    with pytest.raises(PluginError, match="not run before"):
        work.run(3, work.next())
    batches = work.pool.step([(row, 2) for row in work.rows])
    with pytest.raises(PluginError, match="single tokens"):
        work.run(6, ours.plan(batches))


def test_a_plan_waits_for_the_one_before(monkeypatch):
    """The pinned buffers are written only after the event that follows their last copy."""
    order = []

    class Event:
        def record(self):
            order.append("record")

        def synchronize(self):
            order.append("wait")

    monkeypatch.setattr(device, "event", lambda _: Event())
    ours = backend()
    work = Decoding(ours)
    order.clear()
    work.run(3, work.next())
    work.run(3, work.next())
    assert order == ["wait", "record", "wait", "record"]


def test_more_pages_than_before_make_a_new_buffer_and_spare_the_captured_ones(monkeypatch):
    monkeypatch.setattr(module, "LEAST_INDICES", 8)
    ours = backend()
    work = Decoding(ours)
    meta = work.next()
    work.run(3, meta)
    held = meta.groups[0].indices
    wide = torch.cat([work.batches[0].page_table] * 8, 1)
    later = ours.plan((replace(work.batches[0], page_table=wide),))
    assert later.groups[0].indices.numel() >= wide.numel()
    assert later.groups[0].indices is not held
    ours.refresh(meta, work.batches)
    q, out = work.run(3, meta)
    torch.testing.assert_close(out[1], work.right(q, 1))
    assert meta.groups[0].indices is held


def test_wrappers_of_odd_sizes_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(module, "UNCAPTURED", 3)
    ours = backend()
    for rows in range(1, 8):
        work = Decoding(ours, lengths=(3,) * rows)
        meta = work.next()
        work.run(rows, meta)
        if rows == 1:
            ours.refresh(meta, work.batches)  # as a captured one
    kept = ours._shared[work.group].decode
    assert sorted(rows for _, rows in kept) == [1, 5, 6, 7]


@pytest.mark.parametrize(
    "given, hopper, there, options, wanted",
    [
        ("auto", True, True, {}, "fa3"),
        ("auto", True, False, {}, "fa2"),
        ("auto", False, True, {}, "fa2"),
        ("fa3", True, False, {}, "fa3"),
        ("fa2", True, True, {}, "fa2"),
        ("fa3", True, True, {"window": 8}, "fa2"),
        ("fa3", True, True, {"soft_cap": 1.0}, "fa2"),
    ],
)
def test_which_prefill_kernel(monkeypatch, tmp_path, given, hopper, there, options, wanted):
    monkeypatch.setenv(module.PREFILL, given)
    monkeypatch.setattr(device, "is_hopper", lambda _: hopper)
    if there:
        (tmp_path / "prefill-fa3").mkdir()
        (tmp_path / "prefill-fa3" / "prefill-fa3.so").touch()
    ours = backend(flashinfer=fake(aot_dir=str(tmp_path)))
    work = Decoding(ours)
    batches = work.pool.step([(row, 2) for row in work.rows])
    ours._flashinfer.BatchPrefillWithPagedKVCacheWrapper.made.clear()
    ours._shared.clear()
    work.run(6, ours.plan(batches), **options)
    assert ours._flashinfer.BatchPrefillWithPagedKVCacheWrapper.made[0].backend == wanted


def test_a_wrong_choice_of_prefill_is_refused(monkeypatch):
    monkeypatch.setenv(module.PREFILL, "fa4")
    with pytest.raises(ConfigError, match="auto, fa2, fa3"):
        backend()


def test_loading_is_told_once_with_where_modules_came_from(caplog, tmp_path):
    (tmp_path / "prefill-fa2").mkdir()
    (tmp_path / "prefill-fa2" / "prefill-fa2.so").touch()
    caplog.set_level(logging.INFO, "sglcore")
    ours = backend(flashinfer=fake(aot_dir=str(tmp_path)))
    work = Decoding(ours)
    work.run(3, work.next())
    work.run(3, work.next())
    told = [r.getMessage() for r in caplog.records if "loaded in" in r.getMessage()]
    assert len(told) == 1  # decode on tensor cores is the prefill's module
    assert told[0].startswith("flashinfer: kernels of prefill fa2 float32 head_dim 64 loaded in ")
    assert told[0].endswith("(ahead-of-time)")


def test_what_keeps_a_module_from_loading_is_said(monkeypatch):
    monkeypatch.setattr(modules.probe, "compiler", lambda: None)
    loading = modules.Loading(fake())
    with pytest.raises(PluginError) as failure, loading.of("fa2", LLAMA):
        raise RuntimeError("ninja exited\nfatal error: nvcc was not found")
    told = str(failure.value)
    assert "prefill fa2 bfloat16 head_dim 128" in told and "nvcc was not found" in told and "CUDA_HOME" in told
    with pytest.raises(torch.OutOfMemoryError), loading.of("fa2", LLAMA):
        raise torch.OutOfMemoryError("full")


def test_the_workspace_is_one_and_within_bounds():
    qwen = LLAMA._replace(kv_heads=4)
    for variant in (LLAMA, qwen):
        assert decode_bytes(variant, 256, True, 132) <= usual_bytes(variant, True, 132) <= LIMIT
        assert prefill_bytes(variant, 132) <= LIMIT
    # 256 rows of the Llama shape: 319 tiles of 16 queries, 32 heads, 128 values and a sum
    assert decode_bytes(LLAMA, 256, True, 132) == pytest.approx(319 * 16 * 32 * 129 * 4, rel=1e-3)
    space = Workspace()
    first = space.at_least(100, torch.device("cpu"))
    assert space.at_least(first.numel(), torch.device("cpu")) is first
    assert space.at_least(first.numel() + 1, torch.device("cpu")).numel() > first.numel()
    assert prefill_bytes(LLAMA._replace(heads=32, kv_heads=2), 132) > LIMIT  # is not split


def test_prompts_without_a_cached_part_are_not_read_from_pages(monkeypatch):
    monkeypatch.setenv(module.PREFILL, "fa3")
    monkeypatch.setattr(device, "is_hopper", lambda _: True)
    ours = backend()
    work = Decoding(ours)
    (ragged,) = ours._flashinfer.BatchPrefillWithRaggedKVCacheWrapper.made
    assert len(ragged.plans) == 1 and ragged.backend == "fa3"  # one plan for both layers
    assert ragged.plans[0].indptr.tolist() == [0, 40, 45, 61]
    assert not ours._flashinfer.BatchPrefillWithPagedKVCacheWrapper.made
    work.batches = work.pool.step([(row, 3) for row in work.rows])
    work.run(9, ours.plan(work.batches))
    (paged,) = ours._flashinfer.BatchPrefillWithPagedKVCacheWrapper.made
    assert len(paged.plans) == 1 and len(ragged.plans) == 1


def test_a_layer_that_writes_nothing_reads_the_pages(monkeypatch):
    """Layers may share the keys of another."""
    monkeypatch.setenv(module.PREFILL, "fa3")
    monkeypatch.setattr(device, "is_hopper", lambda _: True)
    ours = backend()
    work = Decoding(ours)
    rows = [work.pool.row(0) for _ in range(2)]
    meta = ours.plan(work.pool.step([(row, 20) for row in rows]))
    k, v, q = torch.randn(40, 2, 64), torch.randn(40, 2, 64), torch.randn(40, 8, 64)
    ours.write_kv(3, k, v, work.pool, meta)
    first = ours.attend(3, q, work.pool, meta, scale=0.125)
    again = ours.attend(3, q, work.pool, meta, scale=0.125)
    torch.testing.assert_close(first, again)
    assert len(ours._flashinfer.BatchPrefillWithPagedKVCacheWrapper.made[0].plans) == 1
