"""The small-batch products against torch, and the table that chooses them; see conftest for where the kernels run."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")


def configs():
    """Tiny ones of each kind: (rows, config)."""
    from sglcore_plugin_cuda.kernels.gemm_table import GemmConfig, sums

    return [
        (1, sums(8, 64, 4, 3)),
        (1, sums(16, 32, 4, 1)),
        (1, sums(8, 32, 4, 1, 4)),
        (1, GemmConfig(16, 32, 4, 3)),
        (2, GemmConfig(16, 32, 4, 3)),
        (7, GemmConfig(32, 64, 4, 3, 2)),
        (16, GemmConfig(16, 32, 4, 3, 3)),
        (33, GemmConfig(64, 32, 4, 2)),
        (64, GemmConfig(64, 64, 4, 2, 2)),
    ]


@pytest.mark.parametrize("out, into", [(64, 256), (50, 300), (7, 1000)])
@pytest.mark.parametrize("bias", [False, True])
def test_products(device, out, into, bias):
    from sglcore_plugin_cuda.kernels.gemm import make_counters, small_linear

    torch.manual_seed(out)
    weight = (torch.randn(out, into) * into**-0.5).half().to(device)
    added = torch.randn(out).half().to(device) if bias else None
    counters = make_counters(torch.device(device))
    for rows, config in configs():
        x = torch.randn(rows, into + 16).half().to(device)[:, :into]
        want = x.double() @ weight.double().t() + (0 if added is None else added.double())
        for _ in range(2):  # the counters are left as they were found
            got = small_linear(x, weight, added, config, counters)
            error = float((got.double() - want).abs().max())
            assert got.dtype == x.dtype and error < 3e-3, f"{config} with {rows} rows: {error}"
        assert int(counters.abs().sum()) == 0


def test_split_products_repeat_to_the_bit(device):
    from sglcore_plugin_cuda.kernels.gemm import make_counters, small_linear
    from sglcore_plugin_cuda.kernels.gemm_table import GemmConfig

    weight, x = torch.randn(64, 512).half().to(device), torch.randn(8, 512).half().to(device)
    counters, config = make_counters(torch.device(device)), GemmConfig(32, 64, 4, 3, 4)
    first = small_linear(x, weight, None, config, counters)
    assert all(torch.equal(first, small_linear(x, weight, None, config, counters)) for _ in range(5))


def test_a_row_that_is_not_finite_harms_no_other(device):
    from sglcore_plugin_cuda.kernels.gemm import make_counters, small_linear

    weight = torch.randn(64, 256).half().to(device)
    for rows, config in configs():
        if rows > 2:
            x = torch.randn(rows, 256).half().to(device)
            x[1] = float("nan")
            got = small_linear(x, weight, None, config, make_counters(torch.device(device)))
            assert bool(torch.isfinite(got[[0, *range(2, rows)]]).all()) and bool(got[1].isnan().all())


def test_linear_takes_its_kernel_from_the_table(device, monkeypatch):
    from sglcore_plugin_cuda import ops as module
    from sglcore_plugin_cuda.kernels.gemm_table import GemmConfig, sums

    def table(rows, out, into):
        return sums(8, 32, 4, 1, 2) if rows == 1 else GemmConfig(16, 32, 4, 2, 2) if rows <= 8 else None

    monkeypatch.setattr(module, "config_for", table)
    weight, bias = torch.randn(48, 128).half().to(device) * 0.1, torch.randn(48).half().to(device)
    op = module.CudaOps().linear(weight, bias)
    assert isinstance(op, module.SmallBatchLinear) and op.out_features == 48
    for rows in (0, 1, 3, 8, 9, 64, 65, 100):
        x = torch.randn(rows, 128).half().to(device)
        want = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
        torch.testing.assert_close(op(x).float(), want, atol=4e-3, rtol=4e-3)
    assert op.weight.data_ptr() == weight.data_ptr(), "the weight was copied"
    assert isinstance(module.CudaOps().linear(weight.float(), None), module.PlainLinear)


def test_the_table_names_only_what_can_run():
    from sglcore_plugin_cuda.kernels.gemm_table import BUCKETS, TABLE, config_for

    for (out, into), line in TABLE.items():
        assert len(line) == len(BUCKETS)
        for rows in range(1, BUCKETS[-1] + 1):
            config = config_for(rows, out, into)
            assert config is None or config.problem(rows, out, into) is None
    assert config_for(0, 4096, 4096) is config_for(65, 4096, 4096) is config_for(1, 4096, 4090) is None
    for out, into in ((5120, 2048), (2048, 4096), (151936, 2048), (128256, 4096), (1024, 3072), (4096, 1024), (64, 64)):
        config = config_for(1, out, into)
        assert config is None or config.problem(1, out, into) is None
