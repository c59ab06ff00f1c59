"""The conformance kit on the CPU, under Triton's interpreter; run by test_interpreted.py in a process of its own.

Float32 alone (the interpreter is weak in bfloat16), few sizes: it is slow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from sglcore_plugin_triton_attention import launch, tables
from sglcore_plugin_triton_attention.backend import TritonAttention
from sglcore_plugin_triton_attention.spec import ATTENTION
from triton.runtime import interpreter

from sglcore.contracts.models import KVGroup
from sglcore.layers import reference
from sglcore.testing import AttentionConformance
from sglcore.testing.attention import DECODING, RAGGED
from sglcore.testing.attention_run import error_of
from sglcore.testing.harness import PagedPool
from sglcore.testing.latent_run import LatentCase, LatentRun

_patch = interpreter._patch_lang_tensor


def _patch_and_count(tensor, scope):
    """Numpy no longer makes a number of an array of one, which is what the interpreter takes for a loop's bounds."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._patch_lang_tensor = _patch_and_count

ON_CPU = replace(ATTENTION, probe="", platforms=("cpu",), dtypes=("float32",), head_dims=(32, 80), page_sizes=(5,))


class TorchWrites(TritonAttention):
    """Keys and values stored by torch: the writing kernel takes a program a token, which is slow to interpret, and the
    interpreter rounds to eight bits wrongly where a mantissa carries."""

    def write_kv(self, layer, k, v, kv, meta):
        for pool, new in zip(kv.layer(layer), (k, v), strict=True):
            pool.flatten(0, 1)[meta[layer].batch.slots] = reference.narrowed(new, pool.dtype)

    def write_latent(self, layer, latent, rope, kv, meta):
        pool = kv.latent(layer)
        pool.flatten(0, 2)[meta[layer].batch.slots] = reference.narrowed(torch.cat((latent, rope), 1), pool.dtype)


class OnCpu(AttentionConformance):
    """The kit on the CPU with fewer and shorter cases where it is slow."""

    spec = ON_CPU
    device = "cpu"
    heads: ClassVar = ((4, 1), (9, 3), (2, 1))
    latents: ClassVar = ((5, 24, 16),)

    def make(self):
        return TorchWrites()

    def test_sliding_window(self):
        for window, steps in ((4, RAGGED), (17, DECODING), (100, [[(0, 300)], [(0, 90)], [(0, 1)]])):
            self._check(steps, heads=self.heads[-1], window=window)

    def test_unused_pages_are_never_read(self):
        self._spoil(RAGGED[:2], self.page_sizes()[-1])
        self._spoil([[(0, 70), (1, 12)], [(1, 1), (0, 1)]], self.page_sizes()[-1])

    def test_long_prompt_in_chunks(self):
        self._check([[(0, 150)], [(0, 70), (1, 1)], [(0, 1), (1, 33)], [(1, 1), (0, 1)]])


class TestInterpreted(OnCpu):
    pass


class TestSplits(OnCpu):
    """Rows in parts that a second kernel merges."""

    spec = replace(ON_CPU, head_dims=(32,), page_sizes=(16,), kv_dtypes=())

    @pytest.fixture(autouse=True)
    def _second_kernel(self, monkeypatch):
        chosen = tables.decode_tile
        monkeypatch.setattr(launch.tables, "decode_tile", lambda *shape: chosen(*shape)._replace(fused=False))

    test_ragged_batches = test_every_dtype = test_every_head_size = test_long_prompt_in_chunks = test_soft_cap = None
    test_unused_pages_are_never_read = test_consecutive_pages = test_sliding_window = None
    test_mla = test_mla_in_every_dtype = test_mla_reads_no_foreign_latent = None


class TestWrites(OnCpu):
    """The writing kernel."""

    spec = replace(ON_CPU, kv_dtypes=(), page_sizes=(16,), sliding_window=False, soft_cap=False, sinks=False)
    test_mla = test_mla_reads_no_foreign_latent = None

    def make(self):
        return TritonAttention()

    test_ragged_batches = test_every_head_size = test_long_prompt_in_chunks = test_decoding = None
    test_sliding_window = test_unused_pages_are_never_read = test_consecutive_pages = (
        test_a_poisoned_row_harms_no_other
    ) = None


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_saturate_where_they_are_written(kind):
    """By both kernels. Whole numbers, which need no rounding: what the interpreter rounds it rounds wrongly."""
    torch.manual_seed(1)
    group = KVGroup(layers=(0,), kv_heads=2, head_dim=32)
    backend = TritonAttention()
    qkv = torch.randint(-4, 5, (6, 7, 32)).float()
    qkv[1, 3:, ::5], qkv[2, 3:, 1::5] = 1e6, -7e4
    qkv[3, 5, 2] = float("inf")  # a value's, which no rotation makes NaN of; the interpreter has no NaN of eight bits
    k, v = qkv[:, 3:5], qkv[:, 5:]
    still, turn = torch.ones(6, 16), torch.zeros(6, 16)
    want = [reference.narrowed(part, kind).float() for part in (k, v)]
    for write in (
        lambda pool, meta: backend.write_kv(0, k, v, pool, meta),
        lambda pool, meta: backend.rope_write(0, qkv, still, turn, 3, pool, meta),
    ):
        pool = PagedPool([group], pages=4, page_size=4, dtype=kind)
        (batch,) = pool.step([(pool.row(0), 6)])
        write(pool, backend.plan((batch,)))
        for held, right in zip(pool.layer(0), want, strict=True):
            got = held.flatten(0, 1)[batch.slots].float()
            assert torch.equal(got, right)


@pytest.mark.parametrize("half, norm, page_size", [(16, True, 16), (8, False, 1), (12, True, 5)])
def test_rope_write_is_norm_rope_and_write(half, norm, page_size):
    torch.manual_seed(half)
    heads, kv_heads, dim = 5, 2, 32
    group = KVGroup(layers=(0,), kv_heads=kv_heads, head_dim=dim)
    pools = [PagedPool([group], pages=16, page_size=page_size) for _ in range(2)]
    backend = TritonAttention()
    metas = []
    for pool in pools:
        metas.append(backend.plan(pool.step([(pool.row(0), 7), (pool.row(0), 1)])))
    wide = torch.randn(8, (heads + 2 * kv_heads) * dim + 16)  # rows lie further apart than they are long
    qkv = wide[:, : (heads + 2 * kv_heads) * dim].view(8, -1, dim)
    angles = torch.randn(8, half)
    weights = (torch.randn(dim), torch.randn(dim)) if norm else (None, None)

    got = backend.rope_write(
        0, qkv, angles.cos(), angles.sin(), heads, pools[0], metas[0], q_norm=weights[0], k_norm=weights[1], eps=1e-6
    )

    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    if norm:
        q, k = (reference.rms_norm(x, w, 1e-6) for x, w in zip((q, k), weights, strict=True))
    q, k = reference.rope(q, k, angles.cos(), angles.sin())
    backend.write_kv(0, k, v, pools[1], metas[1])
    torch.testing.assert_close(got, q, atol=1e-6, rtol=1e-6)
    assert got.is_contiguous()
    for ours, right in zip(pools[0].layer(0), pools[1].layer(0), strict=True):
        torch.testing.assert_close(ours, right, atol=1e-6, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("heads, tile", [(16, (16, 16)), (20, (32, 32)), (70, (64, 64)), (3, (64, 16))])
def test_latents_of_many_heads_in_tiles_of_a_card(monkeypatch, heads, tile):
    """What float32 on a card never takes: blocks of heads, and several tokens of a row in a program."""
    block_m, own = tile
    chosen = tables.LatentTile(block_m, own, 16, 4, 2)
    decode = tables.LatentTile(own, own, 16, 4, 2)
    monkeypatch.setattr(tables, "latent_tile", lambda h, r, i, tokens, k: decode if tokens == 1 else chosen)
    run = LatentRun(TorchWrites(), LatentCase(heads=heads, rank=16, rope_dim=16, page_size=16, dtype="float32",
                                              device="cpu"))  # fmt: skip
    for rows in ([(0, 90), (1, 9)], [(0, 1), (1, 1)], [(0, 1), (1, 5)]):
        for got, want in zip(*run.step(rows), strict=True):
            assert error_of(got, want) < 2e-5


def test_a_captured_step_of_latents_needs_no_host_and_no_real_row():
    """As the one of keys and values: bounds far above the lengths, rows that only pad."""
    run = LatentRun(TorchWrites(), LatentCase(heads=5, rank=24, rope_dim=16, page_size=16, dtype="float32",
                                              device="cpu"))  # fmt: skip
    run.step([(0, 200), (1, 70), (2, 5)])
    (batch,) = run.pool.step([(run.rows[row], 1) for row in range(3)])
    pool = run.pool.latent(0).nan_to_num_(0.5)
    q = torch.randn(5, 5, 40)
    backend = TorchWrites()
    args = (run.pool, backend.plan((batch,)))
    want = backend.attend_latent(0, q[:3, :, :24], q[:3, :, 24:], *args, scale=0.2)

    pad = torch.full((2, batch.page_table.shape[1]), pool.shape[0] - 1, dtype=torch.int32)
    padded = replace(
        batch,
        q_lens=torch.ones(5, dtype=torch.int32),
        kv_lens=torch.cat((batch.kv_lens, torch.tensor([0, 1], dtype=torch.int32))),
        page_table=torch.cat((batch.page_table.clamp(max=pool.shape[0] - 1), pad)),
        slots=torch.cat((batch.slots, torch.tensor([-1, (pool.shape[0] - 1) * 16]))),
        max_kv_len=32768,
    )
    meta = backend.plan((padded,))
    held = pool.clone()
    TritonAttention().write_latent(0, q[:, 0, :24], q[:, 0, 24:], run.pool, meta)
    assert int((pool != held).any(-1).sum()) == 4, "one slot a row that has one"
    pool.copy_(held)
    for _ in range(2):  # counters are as they were
        got = backend.attend_latent(0, q[..., :24], q[..., 24:], run.pool, meta, scale=0.2)
        torch.testing.assert_close(got[:3], want, atol=1e-6, rtol=1e-6)
        assert bool((got[3] == 0).all()) and bool(torch.isfinite(got).all())


def test_a_captured_step_needs_no_host_and_no_real_row():
    """Bounds far above the lengths, rows that only pad, numbers that change in place: as a graph replays it."""
    torch.manual_seed(0)
    group = KVGroup(layers=(0,), kv_heads=2, head_dim=32)
    pool = PagedPool([group], pages=64, page_size=16)
    backend = TorchWrites()
    rows = [pool.row(0) for _ in range(3)]
    first = pool.step([(rows[0], 200), (rows[1], 70), (rows[2], 5)])
    backend.write_kv(0, torch.randn(275, 2, 32), torch.randn(275, 2, 32), pool, backend.plan(first))
    (batch,) = pool.step([(row, 1) for row in rows])
    q, k, v = torch.randn(3, 4, 32), torch.randn(3, 2, 32), torch.randn(3, 2, 32)
    meta = backend.plan((batch,))
    backend.write_kv(0, k, v, pool, meta)
    want = backend.attend(0, q, pool, meta, scale=0.2)

    pad = torch.tensor([[63] * batch.page_table.shape[1]], dtype=torch.int32)
    padded = type(batch)(
        q_lens=torch.ones(5, dtype=torch.int32),
        kv_lens=torch.cat((batch.kv_lens, torch.tensor([0, 1], dtype=torch.int32))),
        page_table=torch.cat((batch.page_table, pad, pad)),
        slots=torch.cat((batch.slots, torch.tensor([-1, 63 * 16]))),
        max_q_len=1,
        max_kv_len=32768,
        page_size=16,
        group=group,
    )
    meta = backend.plan((padded,))
    TritonAttention().write_kv(0, torch.cat((k, k[:2])), torch.cat((v, v[:2])), pool, meta)
    for _ in range(2):  # counters are as they were
        got = backend.attend(0, torch.cat((q, q[:2])), pool, meta, scale=0.2)
        torch.testing.assert_close(got[:3], want, atol=1e-6, rtol=1e-6)
        assert bool(torch.isfinite(got).all())
