from __future__ import annotations

import pytest
import torch

from sglcore.builtin.cpu_ops import CpuOps, side_by_side
from sglcore.layers import reference

DTYPES = [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.fixture
def ops() -> CpuOps:
    return CpuOps()


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("tokens", [1, 7])
def test_norms_match_the_reference(ops: CpuOps, dtype: torch.dtype, tolerance: float, tokens: int) -> None:
    x, residual, weight = (
        normal(tokens, 48, dtype=dtype) * 3,
        normal(tokens, 48, dtype=dtype),
        normal(48, dtype=dtype),
    )
    x[0] *= 1e-3  # where eps weighs
    want = reference.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5), want, rtol=tolerance, atol=tolerance)
    normed, total = reference.add_rms_norm(x, residual.clone(), weight, 1e-6)
    got, summed = ops.add_rms_norm(x, residual.clone(), weight, 1e-6)
    assert torch.equal(summed, total)
    torch.testing.assert_close(got, normed, rtol=tolerance, atol=tolerance)


def test_norm_of_zeros_and_of_huge_values_is_finite(ops: CpuOps) -> None:
    weight = torch.ones(8)
    assert torch.equal(ops.rms_norm(torch.zeros(2, 8), weight, 1e-6), torch.zeros(2, 8))
    torch.testing.assert_close(ops.rms_norm(torch.full((1, 8), 1e15), weight, 1e-6), torch.ones(1, 8))


def test_norm_takes_heads(ops: CpuOps) -> None:
    x, weight = normal(3, 4, 16), normal(16)
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_silu_mul_matches_the_reference(ops: CpuOps, dtype: torch.dtype, tolerance: float) -> None:
    x = normal(5, 64, dtype=dtype)
    want = reference.silu_mul(x.float()).to(dtype)
    torch.testing.assert_close(ops.silu_mul(x), want, rtol=tolerance, atol=tolerance)


def test_embedding_matches_the_reference(ops: CpuOps) -> None:
    ids, table = torch.tensor([3, 0, 3]), normal(5, 8)
    assert torch.equal(ops.embedding(ids, table), reference.embedding(ids, table))


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("rotary", [16, 8])
@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("fused", [True, False])
def test_rope_matches_the_reference(
    ops: CpuOps, dtype: torch.dtype, tolerance: float, rotary: int, tokens: int, fused: bool
) -> None:
    qkv = normal(tokens, 8, 16, dtype=dtype)
    before = qkv.clone()
    q, k, _ = qkv.split([4, 2, 2], 1)
    if not fused:
        q, k = q.clone(), k.clone()
    angles = normal(tokens, rotary // 2)
    want = reference.rope(q, k, angles.cos(), angles.sin())
    for got, right in zip(ops.rope(q, k, angles.cos(), angles.sin()), want, strict=True):
        torch.testing.assert_close(got, right, rtol=tolerance, atol=tolerance)
    assert torch.equal(qkv, before)


def test_heads_are_joined_only_where_they_share_memory_in_order() -> None:
    qkv = normal(3, 8, 4)
    q, k, v = qkv.split([4, 2, 2], 1)
    joint = side_by_side(q, k)
    assert joint is not None
    assert torch.equal(joint, qkv[:, :6])
    assert side_by_side(q, v) is None
    assert side_by_side(k, q) is None
    assert side_by_side(q.clone(), k.clone()) is None
    assert side_by_side(q, k.clone()) is None


def test_it_says_what_it_is(ops: CpuOps) -> None:
    assert not ops.graph_safe
    assert not ops.batch_invariant
