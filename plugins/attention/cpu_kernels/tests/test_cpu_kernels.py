from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sglcore_plugin_cpu_kernels import build
from sglcore_plugin_cpu_kernels.attention import CompiledAttention
from sglcore_plugin_cpu_kernels.ops import CompiledOps
from sglcore_plugin_cpu_kernels.spec import ATTENTION, OPS

from sglcore.errors import PluginError
from sglcore.layers import reference
from sglcore.testing import AttentionConformance, InitConformance, OpsConformance


class TestInit(InitConformance):
    distribution = "sglcore-plugin-cpu-kernels"


class TestCompiledOps(OpsConformance):
    spec = OPS


class TestCompiledAttention(AttentionConformance):
    spec = ATTENTION

    def make(self):
        return CompiledAttention()


class TestCompiledPrompts(AttentionConformance):
    """Again with a head size that the compiled prompt kernel takes."""

    spec = replace(ATTENTION, head_dims=(64,))

    def make(self):
        return CompiledAttention()


class TestCompiledPromptsOfWideHeads(TestCompiledPrompts):
    spec = replace(ATTENTION, head_dims=(128,))


def qkv(tokens: int, heads: int, kv_heads: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices of one fused projection, as layers hand them over."""
    fused = torch.randn(tokens, heads + 2 * kv_heads, dim)
    return fused[:, :heads], fused[:, heads : heads + kv_heads]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("tokens", [1, 3, 200])
def test_ops_equal_the_reference(tokens):
    torch.manual_seed(tokens)
    ops = CompiledOps()
    x, residual, weight = torch.randn(tokens, 96), torch.randn(tokens, 96), torch.randn(96)
    close(ops.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    wide = x.view(tokens, 4, 24)
    close(ops.rms_norm(wide, weight[:24], 1e-5), reference.rms_norm(wide, weight[:24], 1e-5))
    expected = reference.add_rms_norm(x, residual.clone(), weight, 1e-5)
    got = ops.add_rms_norm(x, residual.clone(), weight, 1e-5)
    close(got[0], expected[0])
    close(got[1], expected[1])
    gate_up = torch.randn(tokens, 128) * 6
    close(ops.silu_mul(gate_up), reference.silu_mul(gate_up))
    for half in (16, 8):  # all of a head, and half of it
        q, k = qkv(tokens, 6, 2, 32)
        angles = torch.randn(tokens, half)
        got, expected = (f(q, k, angles.cos(), angles.sin()) for f in (ops.rope, reference.rope))
        close(got[0], expected[0])
        close(got[1], expected[1])


def test_nan_is_not_hidden():
    ops = CompiledOps()
    x = torch.randn(2, 64)
    x[1, 5] = float("nan")
    out = ops.rms_norm(x, torch.ones(64), 1e-5)
    assert torch.isfinite(out[0]).all()
    assert torch.isnan(out[1]).all()
    assert torch.isnan(ops.silu_mul(x)[1, 5])


def test_what_is_declared_is_provided():
    assert all(callable(getattr(CompiledOps(), name)) for name in OPS.provides)


def test_without_a_compiler_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library_path.cache_clear()
    try:
        assert "C compiler" in (build.problem() or "")
    finally:
        build.library_path.cache_clear()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    with pytest.raises(PluginError, match="out of luck"):
        build._compile(tmp_path / "cache" / "kernels.so")


def test_the_probe_and_specs_import_no_torch():
    code = (
        "import sys, sglcore_plugin_cpu_kernels.spec, sglcore_plugin_cpu_kernels.build as b; b.problem(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
