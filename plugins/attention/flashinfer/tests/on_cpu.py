"""The plugin's Triton kernels against torch, under Triton's interpreter; run by test_kernels.py in its own process."""

from __future__ import annotations

import pytest
import torch
from fake_flashinfer import TorchKernels
from sglcore_plugin_flashinfer import kernels
from triton.runtime import interpreter

_patch = interpreter._patch_lang_tensor


def _patch_and_count(tensor, scope):
    """Numpy no longer makes a number of an array of one, which is what the interpreter takes for a loop's bounds."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._patch_lang_tensor = _patch_and_count


@pytest.mark.parametrize("page_size", [1, 16, 5])
def test_page_indices(monkeypatch, page_size):
    monkeypatch.setattr(kernels, "ROWS_BLOCK", 4)  # several blocks of rows and of pages
    monkeypatch.setattr(kernels, "PAGES_BLOCK", 8)
    torch.manual_seed(page_size)
    lengths = torch.tensor([40, 1, 16, 17, 0, 90, 1, 5, 33, 2], dtype=torch.int32)
    table = torch.randint(0, 1000, (10, 100), dtype=torch.int32)[:, :95]
    got, want = (torch.full((1000,), -1, dtype=torch.int32) for _ in range(2))
    kernels.TritonKernels().fill_indices(lengths, table, page_size, got)
    TorchKernels().fill_indices(lengths, table, page_size, want)
    assert torch.equal(got, want)


def pools(kv_heads: int, dim: int, page_size: int, dtype: torch.dtype):
    """Two alike, of keys and values that lie in one tensor, pages further apart than they are long."""
    for _ in range(2):
        both = torch.full((6, 2, page_size, kv_heads, dim), -1.0, dtype=dtype)
        yield both[:, 0], both[:, 1]


@pytest.mark.parametrize("kv_heads, dim, page_size, dtype", [(2, 64, 16, torch.float32), (9, 24, 5, torch.float16)])
def test_write(kv_heads, dim, page_size, dtype):
    torch.manual_seed(dim)
    ours, theirs = pools(kv_heads, dim, page_size, dtype)
    slots = torch.randperm(6 * page_size)[:7]
    qkv = torch.randn(7, 3 + 2 * kv_heads, dim, dtype=dtype)
    k, v = qkv[:, 3 : 3 + kv_heads], qkv[:, 3 + kv_heads :]
    kernels.TritonKernels().write_kv(k, v, *ours, slots)
    keys, values = (x.contiguous() for x in theirs)
    TorchKernels().write_kv(k, v, keys, values, slots)
    assert torch.equal(ours[0], keys) and torch.equal(ours[1], values)


@pytest.mark.parametrize("rank, rope_dim, page_size", [(64, 16, 16), (24, 8, 5)])
def test_latents(rank, rope_dim, page_size):
    torch.manual_seed(rank)
    wide = torch.randn(7, rank + rope_dim + 3)  # as one projection leaves them
    latent, rope = wide[:, :rank], wide[:, rank : rank + rope_dim]
    slots = torch.randperm(6 * page_size)[:7]
    ours, theirs = (torch.full((6, page_size, 1, rank + rope_dim), -1.0) for _ in range(2))
    kernels.TritonKernels().write_latent(latent, rope, ours, slots)
    TorchKernels().write_latent(latent, rope, theirs, slots)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("norms", ["qk", "q", "k", ""])
@pytest.mark.parametrize(
    "heads, kv_heads, dim, half, page_size, dtype",
    [
        (8, 2, 64, 32, 16, torch.float32),
        (5, 3, 32, 8, 5, torch.float32),  # half of a head is rotated
        (6, 2, 80, 24, 1, torch.float16),  # sizes that are no power of two
    ],
)
def test_rope_write(heads, kv_heads, dim, half, page_size, dtype, norms, keep):
    torch.manual_seed(dim)
    ours, theirs = pools(kv_heads, dim, page_size, dtype)
    theirs = tuple(x.contiguous() for x in theirs)
    slots = torch.randperm(6 * page_size)[:5]
    wide = torch.randn(5, heads + 2 * kv_heads + 4, dim, dtype=dtype)
    qkv = wide[:, : heads + 2 * kv_heads]  # rows further apart than they are long
    angle = torch.randn(5, half)
    weights = [torch.randn(dim, dtype=dtype) if name in norms else None for name in "qk"]
    other, rest = qkv.clone(), (angle.cos(), angle.sin(), heads)
    got = kernels.TritonKernels().rope_write(qkv, *rest, ours, slots, tuple(weights), 1e-6, keep=keep)
    want = TorchKernels().rope_write(other, *rest, theirs, slots, tuple(weights), 1e-6, keep=keep)
    bound = {"atol": 2e-6, "rtol": 2e-6} if dtype == torch.float32 else {"atol": 4e-3, "rtol": 4e-3}
    torch.testing.assert_close(got, want, **bound)
    assert got.is_contiguous()
    torch.testing.assert_close(qkv, other, **bound)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, **bound)
