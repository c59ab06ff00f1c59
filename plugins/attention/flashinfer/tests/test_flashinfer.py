"""The plugin as others see it: declared, probed, negotiated, imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from sglcore_plugin_flashinfer import modules, probe
from sglcore_plugin_flashinfer.spec import ATTENTION, LATENT

from sglcore.errors import PluginError
from sglcore.testing import AttentionConformance, InitConformance


class TestInit(InitConformance):
    distribution = "sglcore-plugin-flashinfer"


@pytest.mark.gpu
class TestOnTheCard(AttentionConformance):
    """Where the prebuilt modules are: bfloat16, head size 128, no window, no cap; others are compiled first."""

    spec = replace(
        ATTENTION, dtypes=("bfloat16",), head_dims=(128,), sliding_window=False, soft_cap=False, page_sizes=(16, 1)
    )
    heads = ((32, 8), (8, 4), (8, 1))


@pytest.mark.gpu
@pytest.mark.slow
class TestAllOnTheCard(AttentionConformance):
    """Everything that is declared; compiles for many minutes where nothing is prebuilt."""

    spec = ATTENTION
    heads = ((4, 4), (9, 3), (8, 1))


@pytest.mark.gpu
class TestLatentsOnTheCard(AttentionConformance):
    """Where the module for latents is, or nvcc, which compiles it in half a minute."""

    spec = replace(
        LATENT, dtypes=("bfloat16",), head_dims=(128,), sliding_window=False, soft_cap=False, page_sizes=(16, 1)
    )
    latents = ((16, 512, 64), (128, 512, 64), (5, 512, 64))
    heads = ((32, 8),)
    test_decoding = test_every_head_size = test_long_prompt_in_chunks = test_consecutive_pages = None


@pytest.fixture
def installed(monkeypatch):
    """Pretends modules and their versions."""
    there: dict[str, str] = {
        "flashinfer": "0.6.14",
        **{name: "1" for name, _ in probe.NEEDED},
        "triton": "3.6.0",
    }
    monkeypatch.setattr(probe, "_missing", lambda module: module not in there)
    monkeypatch.setattr(probe, "version", lambda: there.get("flashinfer"))
    monkeypatch.setattr(probe, "cache_version", lambda: there.get("flashinfer_jit_cache"))
    return there


def test_the_probe_says_what_is_missing_and_how_to_mend_it(installed):
    assert probe.problem() is None
    installed["flashinfer_jit_cache"] = "0.6.14+cu130"
    assert probe.problem() is None
    installed["flashinfer_jit_cache"] = "0.6.11"
    assert "0.6.11" in str(probe.problem())
    del installed["flashinfer_jit_cache"]
    installed["flashinfer"] = "0.6.1"
    assert probe.problem() == (
        "flashinfer 0.6.1 is installed, flashinfer-python>=0.6.14,<0.8 is needed; "
        "pip install 'flashinfer-python>=0.6.14,<0.8'"
    )
    installed["flashinfer"] = "0.7.2.post1"
    assert probe.problem() is None
    del installed["tvm_ffi"]
    assert "it imports tvm_ffi; pip install 'apache-tvm-ffi>=0.1.6,<0.2'" in str(probe.problem())
    del installed["flashinfer"]
    assert probe.problem() == "flashinfer is not installed; pip install 'flashinfer-python>=0.6.14,<0.8'"


def test_the_module_for_latents_is_asked_for(installed, monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "compiler", lambda: "/usr/bin/nvcc")
    assert probe.latent_problem() is None
    monkeypatch.setattr(probe, "compiler", lambda: None)
    monkeypatch.setattr(probe, "_home", lambda module: None)
    assert "no nvcc" in str(probe.latent_problem())
    monkeypatch.setattr(probe, "_home", lambda module: tmp_path)
    assert "CUDA_HOME" in str(probe.latent_problem())
    (tmp_path / "ops" / "batch_mla_attention_x").mkdir(parents=True)
    (tmp_path / "ops" / "batch_mla_attention_x" / "batch_mla_attention_x.so").touch()
    assert probe.latent_problem() is None
    del installed["flashinfer"]
    assert "not installed" in str(probe.latent_problem())


def test_versions_are_read_without_importing(tmp_path, monkeypatch):
    package = tmp_path / "flashinfer_jit_cache"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0.6.14'\nraise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert probe.cache_version() == "0.6.14"


def test_the_compiler_that_would_be_used(monkeypatch, tmp_path):
    for variable in ("FLASHINFER_NVCC", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert probe.compiler() == str(tmp_path / "bin" / "nvcc")


def test_a_broken_install_is_quoted(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(PluginError, match="cannot be imported: ModuleNotFoundError") as failure:
        modules.import_flashinfer()
    assert "force-reinstall" in failure.value.remedy


def test_the_probe_and_the_spec_import_no_torch():
    code = (
        "import sys, sglcore_plugin_flashinfer.spec, sglcore_plugin_flashinfer.probe as p; p.problem(); p.compiler(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_declared_is_there():
    from sglcore_plugin_flashinfer.attention import FlashInferAttention

    assert ATTENTION.rope_write and hasattr(FlashInferAttention, "rope_write")
    assert ATTENTION.graph_safe and hasattr(FlashInferAttention, "refresh")
    assert LATENT.mla and hasattr(FlashInferAttention, "attend_latent")
    assert LATENT.name == "flashinfer-mla" and not ATTENTION.mla
