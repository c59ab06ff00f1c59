"""Norms, activation, rope and embedding against the torch references; see conftest for where the kernels run."""

from __future__ import annotations

import pytest
import torch

from sglcore.layers import reference
from sglcore.testing.ops import OpChecks

pytest.importorskip("triton")
DTYPES = [torch.float32, torch.float16]
CLOSE = {torch.float32: 3e-6, torch.float16: 2e-3}


@pytest.fixture
def ops(device):
    from sglcore_plugin_cuda.ops import CudaOps

    return CudaOps()


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal to a few roundings of the dtype, as a share of the largest value."""
    assert got.shape == want.shape and got.dtype == want.dtype
    bound = CLOSE[got.dtype] * max(1.0, float(want.abs().max()))
    assert float((got.float() - want.float()).abs().max()) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, width", [(1, 128), (3, 100), (5, 4096), (37, 24)])
def test_norms(ops, device, rows, width, dtype):
    torch.manual_seed(rows)
    wide = torch.randn(rows, width + 16, device=device).to(dtype)
    x, weight = wide[:, :width], torch.randn(width, device=device).to(dtype)
    close(ops.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    residual = torch.randn(rows, width, device=device).to(dtype) * 2
    want = reference.add_rms_norm(x, residual, weight, 1e-5)
    normed, total = ops.add_rms_norm(x, residual, weight, 1e-5)
    close(normed, want[0])
    assert torch.equal(total, want[1])
    assert total.data_ptr() == residual.data_ptr(), "the sum is not in place"


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_heads_where_they_lie(ops, device, dtype):
    """Heads of a fused projection: two strides, and no copy of them."""
    fused = torch.randn(9, 10, 32, device=device).to(dtype)
    weight = torch.randn(32, device=device).to(dtype)
    for part in (fused[:, :6], fused[:, 6:8], fused[:, 8:9], fused[4:5, :1]):
        close(ops.rms_norm(part, weight, 1e-6), reference.rms_norm(part, weight, 1e-6))
    close(ops.rms_norm(fused[0, 0], weight, 1e-6), reference.rms_norm(fused[0, 0], weight, 1e-6))
    four = fused.view(3, 3, 10, 32)
    close(ops.rms_norm(four, weight, 1e-6), reference.rms_norm(four, weight, 1e-6))


def test_rounding_is_that_of_transformers(ops, device):
    """In a half type the scaled row is rounded before the weight, and silu before the product: equal to the bit."""
    torch.manual_seed(5)
    x = torch.randn(64, 256, device=device).half()
    weight, residual = torch.randn(256, device=device).half(), torch.randn(64, 256, device=device).half()
    want = reference.add_rms_norm(x, residual, weight, 1e-5)[0]
    got = ops.add_rms_norm(x, residual, weight, 1e-5)[0]
    assert float((got != want).float().mean()) < 1e-3
    want = torch.nn.functional.silu(x[:, :128]) * x[:, 128:]
    assert float((ops.silu_mul(x) != want).float().mean()) < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, width", [(1, 64), (3, 50), (7, 1500)])
def test_silu_mul(ops, device, rows, width, dtype):
    gate_up = (torch.randn(rows, 2 * width + 8, device=device) * 4).to(dtype)[:, : 2 * width]
    gate_up[0, 0] = -200.0
    close(ops.silu_mul(gate_up), reference.silu_mul(gate_up.float()).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "heads, kv_heads, dim, half", [(6, 2, 32, 16), (3, 1, 40, 12), (32, 8, 16, 4), (16, 8, 128, 64)]
)
def test_rope(ops, device, heads, kv_heads, dim, half, dtype):
    fused = torch.randn(4, heads + 2 * kv_heads, dim, device=device).to(dtype)
    q, k = fused[:, :heads], fused[:, heads : heads + kv_heads]
    angles = torch.randn(4, half, device=device) * 3
    for cos, sin in ((angles.cos(), angles.sin()), (angles.cos(), torch.randn(4, half + 3, device=device)[:, :half])):
        for got, want in zip(ops.rope(q, k, cos, sin), reference.rope(q, k, cos, sin), strict=True):
            close(got, want)


def test_no_rows(ops, device):
    x, weight = torch.empty(0, 64, device=device), torch.ones(64, device=device)
    assert ops.rms_norm(x, weight, 1e-5).shape == (0, 64)
    assert ops.silu_mul(x).shape == (0, 32)
    assert ops.argmax(x).shape == (0,)


class TestConformance(OpChecks):
    """The kit's calls, those of up to seven rows: the interpreter is slow."""

    def table(self):
        from sglcore_plugin_cuda.ops import CudaOps

        return CudaOps()

    def provided(self):
        return ("embedding", "rms_norm", "add_rms_norm", "silu_mul", "argmax", "rope", "draw")

    def op_dtypes(self):
        return ("float32", "float16")

    @pytest.fixture(autouse=True)
    def _where(self, device):
        self.__class__.device = device

    def _calls(self):
        return [call for call in super()._calls() if call.rows in (1, 3, 7)]

    def test_batch_invariance(self):
        """Not declared."""
