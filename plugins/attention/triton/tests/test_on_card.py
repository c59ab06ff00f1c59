"""The kernels on a CUDA device: the whole kit, the fused write, and a captured step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sglcore_plugin_triton_attention import probe
from sglcore_plugin_triton_attention.spec import ATTENTION

from sglcore.contracts.attention import AttentionBatch
from sglcore.contracts.models import KVGroup
from sglcore.layers import reference
from sglcore.testing import AttentionConformance, InitConformance
from sglcore.testing.harness import PagedPool


class TestInit(InitConformance):
    distribution = "sglcore-plugin-triton-attention"


@pytest.mark.gpu
class TestOnCard(AttentionConformance):
    spec = ATTENTION


@pytest.mark.gpu
class TestLlamaHeads(AttentionConformance):
    spec = replace(ATTENTION, head_dims=(128,), page_sizes=(16,))
    heads = ((32, 8), (16, 8), (32, 4))
    latents = ((128, 512, 64), (16, 512, 64))


def test_what_is_missing_is_told(monkeypatch):
    def none(name):
        raise OSError(name)

    monkeypatch.setattr(probe.ctypes, "CDLL", none)
    assert "driver" in (probe.problem() or "")
    monkeypatch.setattr(probe.ctypes, "CDLL", lambda name: None)
    assert probe.problem() is None or "compiler" in (probe.problem() or "")
    monkeypatch.setattr(probe.shutil, "which", lambda name: None)
    assert "C compiler" in (probe.problem() or "")
    monkeypatch.setattr(probe, "find_spec", lambda name: None)
    assert "Triton" in (probe.problem() or "")


def need_card() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no cuda device here")


def backend():
    from sglcore_plugin_triton_attention.backend import TritonAttention

    return TritonAttention()


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [3, 300])
@pytest.mark.parametrize("half, norm", [(64, True), (64, False), (32, True)])
def test_rope_write_is_norm_rope_and_write(tokens, half, norm):
    need_card()
    torch.manual_seed(0)
    group = KVGroup(layers=(0,), kv_heads=8, head_dim=128)
    pools = [PagedPool([group], pages=40, page_size=16, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    ours = backend()
    metas = [ours.plan(pool.step([(pool.row(0), tokens)])) for pool in pools]
    qkv = torch.randn(tokens, 48, 128, device="cuda", dtype=torch.bfloat16)
    angles = torch.randn(tokens, half, device="cuda")
    q_norm, k_norm = ((1 + 0.1 * torch.randn(128, device="cuda")).bfloat16() if norm else None for _ in range(2))
    args = (angles.cos(), angles.sin())
    got = ours.rope_write(0, qkv, *args, 32, pools[0], metas[0], q_norm=q_norm, k_norm=k_norm, eps=1e-6)
    q, k, v = qkv.split([32, 8, 8], 1)
    if q_norm is not None and k_norm is not None:
        q, k = reference.rms_norm(q, q_norm, 1e-6), reference.rms_norm(k, k_norm, 1e-6)
    q, k = reference.rope(q, k, *args)
    ours.write_kv(0, k, v, pools[1], metas[1])
    same_but_for_rounding(got, q)
    for mine, right in zip(pools[0].layer(0), pools[1].layer(0), strict=True):
        same_but_for_rounding(mine, right)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("tokens", [5, 200])
def test_eight_bits_are_those_of_torch_and_saturate(kind, tokens):
    """By both kernels, from bfloat16, to the bit: rounding, what is past the range, NaN."""
    need_card()
    torch.manual_seed(0)
    group = KVGroup(layers=(0,), kv_heads=8, head_dim=128)
    ours = backend()
    qkv = (torch.randn(tokens, 48, 128, device="cuda") * 3).bfloat16()
    qkv[1, 32:, ::5], qkv[2, 32:, 1::5], qkv[3, 40:, 7], qkv[4, 40:, 9] = 1e6, -7e4, float("inf"), float("nan")
    k, v = qkv[:, 32:40], qkv[:, 40:]
    still, turn = torch.ones(tokens, 64, device="cuda"), torch.zeros(tokens, 64, device="cuda")
    want = [reference.narrowed(part, kind).float() for part in (k, v)]
    for write in (
        lambda pool, meta: ours.write_kv(0, k, v, pool, meta),
        lambda pool, meta: ours.rope_write(0, qkv, still, turn, 32, pool, meta),
    ):
        pool = PagedPool([group], pages=20, page_size=16, dtype=kind, device="cuda")
        (batch,) = pool.step([(pool.row(0), tokens)])
        write(pool, ours.plan((batch,)))
        for held, right in zip(pool.layer(0), want, strict=True):
            got = held.view(torch.uint8).flatten(0, 1)[batch.slots].view(kind).float()
            assert torch.equal(got.isnan(), right.isnan()) and torch.equal(got.nan_to_num(), right.nan_to_num())


def same_but_for_rounding(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal but for a few values that the last bit of float32 rounds to the neighbour."""
    torch.testing.assert_close(got, want, atol=4e-2, rtol=1.6e-2, equal_nan=True)
    assert float((got.nan_to_num() != want.nan_to_num()).float().mean()) < 5e-3


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 5, 96])
def test_a_captured_step_is_true_for_what_its_tensors_hold_later(rows):
    """Captured at one length with a bound far above it, replayed at others, some of them padding."""
    need_card()
    torch.manual_seed(rows)
    group = KVGroup(layers=(0,), kv_heads=8, head_dim=128)
    pool = PagedPool([group], pages=rows * 72, page_size=16, dtype=torch.bfloat16, device="cuda")
    for tensor in pool.layer(0):
        tensor.normal_()
    own = torch.arange(rows * 70, dtype=torch.int32, device="cuda").view(rows, 70)
    kv_lens = torch.full((rows,), 3, dtype=torch.int32, device="cuda")
    batch = AttentionBatch(
        q_lens=torch.ones_like(kv_lens),
        kv_lens=kv_lens,
        page_table=own,
        slots=torch.zeros(rows, dtype=torch.int64, device="cuda"),
        max_q_len=1,
        max_kv_len=40000,
        page_size=16,
        group=group,
    )
    q = torch.randn(rows, 32, 128, device="cuda", dtype=torch.bfloat16)
    ours = backend()
    meta = ours.plan((batch,))
    ours.attend(0, q, pool, meta, scale=0.09)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ours.attend(0, q, pool, meta, scale=0.09)
    keys, values = (x.flatten(0, 1) for x in pool.layer(0))
    for lengths in ([7, 1100, 64, 65, 0], [1, 1, 1, 900, 1104]):
        kv_lens.copy_(torch.tensor((lengths * rows)[:rows], dtype=torch.int32))
        graph.replay()
        for row in range(min(rows, 5)):
            length = lengths[row]
            if not length:
                assert bool((out[row] == 0).all())
                continue
            slots = (own[row].long()[:, None] * 16 + torch.arange(16, device="cuda")).view(-1)[:length]
            k, v = (x[slots].double().repeat_interleave(4, 1) for x in (keys, values))
            weights = (torch.einsum("hd,khd->hk", q[row].double(), k) * 0.09).softmax(-1)
            right = torch.einsum("hk,khd->hd", weights, v)
            torch.testing.assert_close(out[row].double(), right, atol=3e-2, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [16, 128])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_captured_step_of_latents_is_true_for_what_its_tensors_hold_later(rows, heads):
    """As the one of keys and values."""
    need_card()
    torch.manual_seed(rows)
    group = KVGroup(kind="latent", layers=(0,), kv_heads=1, head_dim=576)
    pool = PagedPool([group], pages=rows * 72, page_size=16, dtype=torch.bfloat16, device="cuda")
    pool.latent(0).normal_()
    own = torch.arange(rows * 70, dtype=torch.int32, device="cuda").view(rows, 70)
    kv_lens = torch.full((rows,), 3, dtype=torch.int32, device="cuda")
    batch = AttentionBatch(
        q_lens=torch.ones_like(kv_lens),
        kv_lens=kv_lens,
        page_table=own,
        slots=torch.zeros(rows, dtype=torch.int64, device="cuda"),
        max_q_len=1,
        max_kv_len=40000,
        page_size=16,
        group=group,
    )
    q = torch.randn(rows, heads, 576, device="cuda", dtype=torch.bfloat16)
    parts = (q[..., :512], q[..., 512:])
    ours = backend()
    meta = ours.plan((batch,))
    ours.attend_latent(0, *parts, pool, meta, scale=0.05)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ours.attend_latent(0, *parts, pool, meta, scale=0.05)
    latents = pool.latent(0).flatten(0, 2)
    for lengths in ([7, 1100, 64, 65, 0], [1, 1, 1, 900, 1104]):
        kv_lens.copy_(torch.tensor((lengths * rows)[:rows], dtype=torch.int32))
        graph.replay()
        for row in range(min(rows, 5)):
            length = lengths[row]
            if not length:
                assert bool((out[row] == 0).all())
                continue
            slots = (own[row].long()[:, None] * 16 + torch.arange(16, device="cuda")).view(-1)[:length]
            k = latents[slots].double()
            right = (q[row].double() @ k.T * 0.05).softmax(-1) @ k[:, :512]
            torch.testing.assert_close(out[row].double(), right, atol=3e-2, rtol=0)
