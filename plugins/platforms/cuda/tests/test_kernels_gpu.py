"""The kernel table on a card: the kit, the products at the sizes they are made for, and a graph of all ops."""

from __future__ import annotations

import pytest
import torch

from sglcore.layers import reference
from sglcore.testing.op_cases import CASES
from sglcore.testing.ops import TOLERANCE, OpChecks

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]


def table(*, pdl: bool = False):
    from sglcore_plugin_cuda.ops import CudaOps

    return CudaOps(pdl=pdl)


class TestOps(OpChecks):
    device = "cuda"

    def table(self):
        return table()

    def provided(self):
        return tuple(CASES)

    def op_dtypes(self):
        return tuple(TOLERANCE)


class TestOpsLaunchedEarly(TestOps):
    def table(self):
        if torch.cuda.get_device_capability() < (9, 0):
            pytest.skip("programmatic dependent launch needs compute capability 9.0")
        return table(pdl=True)


def shapes():
    from sglcore_plugin_cuda.kernels.gemm_table import TABLE

    return [*TABLE, (5120, 2048), (2048, 4096), (151936, 2048), (1024, 3072)]


@pytest.mark.parametrize("pdl", [False, True])
def test_products_of_the_table_are_as_right_as_cublas(pdl):
    torch.manual_seed(0)
    ops = table(pdl=pdl)
    for out, into in shapes():
        weight = torch.randn(out, into, device="cuda", dtype=torch.bfloat16) * into**-0.5
        op, wide = ops.linear(weight, None), weight.float()
        for rows in (1, 2, 3, 4, 8, 13, 16, 17, 32, 48, 64, 65):
            x = torch.randn(rows, into, device="cuda", dtype=torch.bfloat16)
            want = torch.nn.functional.linear(x.float(), wide)
            error = float((op(x).float() - want).abs().max())
            plain = float((torch.nn.functional.linear(x, weight).float() - want).abs().max())
            assert error <= 1.5 * plain + 1e-3, f"[{out}, {into}] with {rows} rows: {error}, cuBLAS {plain}"


def test_split_products_on_the_card():
    from sglcore_plugin_cuda.kernels.gemm import make_counters, small_linear
    from sglcore_plugin_cuda.kernels.gemm_table import GemmConfig, sums

    counters = make_counters(torch.device("cuda"))
    weight = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) / 64
    tried = [(1, sums(8, 512, 4, 4, 2)), (1, sums(16, 512, 4, 1, 4)), (16, GemmConfig(64, 128, 4, 4, 4))]
    for rows, config in [*tried, (64, GemmConfig(128, 128, 8, 3, 4)), (40, GemmConfig(64, 64, 4, 5, 2))]:
        x = torch.randn(rows, 4096, device="cuda", dtype=torch.bfloat16)
        want = x.float() @ weight.float().t()
        first = small_linear(x, weight, None, config, counters)
        assert float((first.float() - want).abs().max()) < 2e-2 * float(want.abs().max()), config
        for _ in range(200):
            again = small_linear(x, weight, None, config, counters)
            assert torch.equal(first, again), f"{config} does not repeat to the bit"
        assert int(counters.abs().sum()) == 0


@pytest.mark.parametrize("pdl", [False, True])
def test_a_graph_of_all_ops_gives_what_they_give_one_by_one(pdl):
    """Captured, then replayed on other inputs; with early launches each op reads what the one before it just wrote."""
    torch.manual_seed(3)
    ops, rows, hidden = table(pdl=pdl), 8, 4096
    weights = [
        torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * k**-0.5 for n, k in ((6144, 4096), (4096, 4096))
    ]
    linears = [ops.linear(w, None) for w in weights]
    scale = torch.rand(hidden, device="cuda", dtype=torch.bfloat16)
    angles = torch.randn(rows, 64, device="cuda")
    rules = (
        torch.tensor([0.0, 1.0] * 4),
        torch.arange(rows),
        torch.arange(rows),
        torch.tensor([0.0, 0.0, 0.2, 0.2] * 2),
    )
    rules = tuple(t.cuda() for t in rules)

    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        residual = x.clone()
        for _ in range(8):
            normed, residual = ops.add_rms_norm(x, residual, scale, 1e-5)
            fused = linears[0](normed).view(rows, 48, 128)
            q, k = ops.rope(fused[:, :32], fused[:, 32:40], angles.cos(), angles.sin())
            x = linears[1](ops.rms_norm(q, scale[:128], 1e-5).reshape(rows, hidden))
            x = x + ops.silu_mul(torch.cat((x, k.reshape(rows, 1024), x[:, :3072]), 1)) if k.numel() else x
        logits = ops.rms_norm(residual, scale, 1e-5).float()
        return (x, residual, *ops.draw(logits, *rules), ops.argmax(logits))

    given = torch.randn(rows, hidden, device="cuda", dtype=torch.bfloat16)
    run(given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(given)
    for _ in range(20):
        given.copy_(torch.randn_like(given))
        graph.replay()
        got = [part.clone() for part in results]
        for part, want in zip(got, run(given), strict=True):
            assert torch.equal(part, want)


def test_draw_at_the_size_of_a_vocabulary():
    for rows in (1, 7, 64, 256):
        logits = torch.randn(rows, 128256, device="cuda") * 3
        temperature = torch.rand(rows, device="cuda") + 0.1
        seed, position = torch.arange(rows, device="cuda"), torch.arange(rows, device="cuda") + 9
        for floor in (0.0, 0.05):
            min_p = torch.full((rows,), floor, device="cuda")
            tokens, finite = table().draw(logits, temperature, seed, position, min_p)
            want = reference.draw(logits, temperature, seed, position, min_p)[0]
            assert bool(finite.all()) and int((tokens != want).sum()) <= 1
        assert torch.equal(table().argmax(logits), logits.argmax(-1))
