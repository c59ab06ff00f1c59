"""The platform: what it says without a GPU, and the kit on one."""

from __future__ import annotations

from pathlib import Path

import pytest
from sglcore_plugin_cuda import probe
from sglcore_plugin_cuda.spec import CUDA

from sglcore.errors import ConfigError
from sglcore.testing import InitConformance, PlatformConformance


class TestInit(InitConformance):
    distribution = "sglcore-plugin-cuda"


@pytest.mark.gpu
class TestOnCard(PlatformConformance):
    spec = CUDA
    dtypes = ("bfloat16", "float16", "float32")


def test_no_device_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.gpu_nodes(tmp_path) == []
    monkeypatch.setattr(probe, "gpu_nodes", list)
    monkeypatch.setattr(probe, "_library_says_so", lambda: False)
    assert "no NVIDIA GPU" in str(probe.problem()) and "--device cpu" in str(probe.problem())


def test_devices_are_counted(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert probe.gpu_nodes(tmp_path) == ["nvidia0", "nvidia1"]


def test_what_is_missing_is_told_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "gpu_nodes", lambda: ["nvidia0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "hides every GPU" in str(probe.problem())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(probe.ctypes, "CDLL", missing)
    assert "libcuda.so.1 cannot be loaded" in str(probe.problem())
    monkeypatch.setattr(probe.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(probe, "torch_cuda", lambda: "")
    assert "no CUDA support" in str(probe.problem())
    monkeypatch.setattr(probe, "torch_cuda", lambda: "13.0")
    found = probe.importlib.util.find_spec
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: None if name == "triton" else found(name))
    assert "pip install triton" in str(probe.problem())
    monkeypatch.setattr(probe.importlib.util, "find_spec", found)
    pytest.importorskip("triton")
    assert probe.problem() is None


@pytest.mark.parametrize(
    ("line", "version"),
    [("cuda: Optional[str] = '13.0'\n", "13.0"), ("cuda: Optional[str] = None\n", ""), ("hip = None\n", None)],
)
def test_the_build_of_torch_is_read_without_importing_it(
    line: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.py").write_text("__version__ = '2.11.0'\n" + line)
    (tmp_path / "__init__.py").touch()
    spec = probe.importlib.util.spec_from_file_location("torch", tmp_path / "__init__.py")
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: spec)
    assert probe.torch_cuda() == version


def test_dtypes() -> None:
    assert [probe.compute_dtype(name) for name in ("bfloat16", "float16", "float32", "float64")] == [
        "bfloat16",
        "float16",
        "bfloat16",
        "bfloat16",
    ]


def test_an_old_card_is_refused() -> None:
    platform = pytest.importorskip("sglcore_plugin_cuda.platform", exc_type=ImportError)
    platform.refuse_old("H200", (9, 0))
    with pytest.raises(ConfigError, match=r"V100 has compute capability 7\.0; 8\.0 or later"):
        platform.refuse_old("V100", (7, 0))
