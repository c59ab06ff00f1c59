"""The attention layer's way from a joint projection, with a backend that rotates and writes in one call and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layers.plain import context
from sglcore.builtin.torch_attention import TorchAttention
from sglcore.contracts.attention import KVView
from sglcore.contracts.models import ForwardInputs, KVGroup
from sglcore.errors import ConfigError
from sglcore.layers import reference
from sglcore.layers.attention import Attention
from sglcore.layers.loading import load
from sglcore.testing.harness import PagedPool

HEADS, KV_HEADS, DIM, TOKENS = 4, 2, 8, 6


class FusedAttention(TorchAttention):
    """A backend with `rope_write`, from the reference ops."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def rope_write(
        self,
        layer: int,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        heads: int,
        kv: KVView,
        meta: Any,
        *,
        q_norm: torch.Tensor | None = None,
        k_norm: torch.Tensor | None = None,
        eps: float = 0.0,
    ) -> torch.Tensor:
        self.calls += 1
        kv_heads = (qkv.shape[1] - heads) // 2
        q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
        q = q if q_norm is None else reference.rms_norm(q, q_norm, eps)
        k = k if k_norm is None else reference.rms_norm(k, k_norm, eps)
        q, k = reference.rope(q, k, cos, sin)
        self.write_kv(layer, k, v, kv, meta)
        return q


def normal(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("normed", [True, False])
def test_one_call_of_the_backend_is_norm_rope_and_write(normed: bool) -> None:
    norms: dict[str, Any] = {"q_norm": normal(DIM), "k_norm": normal(DIM, seed=3), "eps": 1e-5} if normed else {}
    qkv = normal(TOKENS, HEADS + 2 * KV_HEADS, DIM)
    turns = normal(TOKENS, DIM // 2)
    results = []
    for backend in (TorchAttention(), FusedAttention()):
        layer = Attention(context(attention=backend), 0, scale=DIM**-0.5)
        pool = PagedPool((KVGroup(layers=(0,), kv_heads=KV_HEADS, head_dim=DIM),), pages=8, page_size=4)
        meta = backend.plan(pool.step([(pool.row(TOKENS), TOKENS)]))
        inputs = ForwardInputs(torch.zeros(0), torch.zeros(0), meta, pool, None)
        out = layer.rotary(qkv.clone(), (turns.cos(), turns.sin()), inputs, HEADS, KV_HEADS, **norms)
        assert tuple(out.shape) == (TOKENS, HEADS, DIM)
        results.append((out, *(cache.nan_to_num(9.0) for cache in pool.layer(0))))
        assert isinstance(backend, FusedAttention) == bool(getattr(backend, "calls", 0))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kept", [torch.float8_e4m3fn, torch.float32])
@pytest.mark.parametrize("fused", [False, True])
def test_the_scales_of_a_checkpoint_hold_for_a_cache_of_eight_bits(kept: torch.dtype, fused: bool) -> None:
    """Keys and values far past the range of eight bits: lost without scales, near with them."""
    qkv, turns = normal(TOKENS, HEADS + 2 * KV_HEADS, DIM), normal(TOKENS, DIM // 2)
    qkv[:, :HEADS] /= 2000.0
    qkv[:, HEADS : HEADS + KV_HEADS] *= 2000.0
    qkv[:, HEADS + KV_HEADS :] *= 300.0

    def attended(dtype: torch.dtype, **scales: float) -> torch.Tensor:
        backend = FusedAttention() if fused else TorchAttention()
        layer = Attention(context(attention=backend), 0, scale=DIM**-0.5, soft_cap=20.0)
        slots = layer.slots("a.")
        load([(f"a.{name.replace('__', '.')}", torch.tensor([value])) for name, value in scales.items()], slots)
        pool = PagedPool((KVGroup(layers=(0,), kv_heads=KV_HEADS, head_dim=DIM),), pages=8, page_size=4, dtype=dtype)
        meta = backend.plan(pool.step([(pool.row(TOKENS), TOKENS)]))
        inputs = ForwardInputs(torch.zeros(0), torch.zeros(0), meta, pool, None)
        out = layer.rotary(qkv.clone(), (turns.cos(), turns.sin()), inputs, HEADS, KV_HEADS)
        assert bool(getattr(backend, "calls", 0)) == (fused and not (scales and dtype.itemsize == 1))
        return out

    right, most = attended(torch.float32), 900.0
    scaled = attended(kept, k_scale=16.0, v_proj__output_scale=3.0)
    error = float((scaled - right).abs().max())
    assert error <= (0.05 * most if kept.itemsize == 1 else 0.0)
    if kept.itemsize == 1:
        assert float((attended(kept) - right).abs().max()) > 2 * error


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(value: float) -> None:
    slots = Attention(context(attention=TorchAttention()), 0, scale=1.0).slots("model.layers.3.self_attn.")
    with pytest.raises(ConfigError, match=r"model\.layers\.3\.self_attn\.k_proj\.k_scale holds .*above 0"):
        load([("model.layers.3.self_attn.k_proj.k_scale", torch.tensor(value))], slots)
