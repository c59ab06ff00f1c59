from __future__ import annotations

from pathlib import Path

import pytest

from sglcore.builtin import cpu_features
from sglcore.builtin.cpu_features import AVX512, NATIVE, compute_dtype, cpu_flags, native


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_torch_says_the_same_of_this_machine(name: str) -> None:
    import torch

    has = torch.cpu.get_capabilities()
    level = torch.backends.cpu.get_cpu_capability()
    instructions = any(has.get(flag, False) for flag in NATIVE[name])
    assert native(name, cpu_flags()) == (level.startswith(("AVX512", "AMX")) and instructions)


def test_instructions_count_only_where_torch_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    assert native("bfloat16", AVX512 | {"avx512_bf16"})
    assert native("float16", AVX512 | {"amx_fp16"})
    assert not native("float16", AVX512 | {"avx512_bf16"})
    assert not native("bfloat16", frozenset({"avx2", "fma", "avx512_bf16"}))
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert not native("bfloat16", AVX512 | {"avx512_bf16"})


def test_flags_are_read_from_the_kernels_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_features.platform, "machine", lambda: "x86_64")
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nprocessor : 1\nflags : other\n")
    assert cpu_flags(listing) == {"fpu", "avx2", "avx512_bf16"}
    assert cpu_flags(tmp_path / "absent") == frozenset()
    monkeypatch.setattr(cpu_features.platform, "machine", lambda: "aarch64")
    assert cpu_flags(listing) == frozenset()


def test_other_types_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_features, "cpu_flags", frozenset)
    assert [compute_dtype(t) for t in ("float64", "float32", "bfloat16")] == ["float64", "float32", "float32"]
