"""The checks of `sglcore doctor --gpu`, without a GPU: what is told of machines that are made up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sglcore_plugin_cuda import doctor, probe
from sglcore_plugin_cuda.spec import CUDA

SMI = "0, NVIDIA H200, 9.0, 143000, 143771, 580.159.04\n1, Tesla V100, 7.0, 100, 16384, 580.159.04\n"
TORCH = {"version": "2.11.0+cu130", "cuda": "13.0", "usable": True, "cards": []}
CARD = {"index": 0, "name": "NVIDIA H200", "free": 140 << 30, "total": 141 << 30, "capability": [9, 0]}


def test_what_nvidia_smi_tells():
    cards = doctor.smi(lambda command: SMI)
    assert [card["name"] for card in cards] == ["NVIDIA H200", "Tesla V100"]
    assert doctor.driver(cards)["found"] == "580.159.04"
    new, old = doctor.cards_checks(cards, "torch fails")
    assert new["state"] == "ok" and "compute capability 9.0, 139.6 of 140.4 GiB free" in new["found"]
    assert old["state"] == "problem" and "8.0 or later is needed" in old["remedy"]
    assert doctor.smi(lambda command: None) is None
    assert doctor.smi(lambda command: "No devices were found\n") is None
    unknown = doctor.smi(lambda command: "0, Card, [N/A], [N/A], [N/A], 1.0\n")
    assert doctor.cards_checks(unknown, "torch fails")[0]["state"] == "problem"


def test_no_driver(monkeypatch):
    monkeypatch.setattr(doctor, "kernel_driver", lambda: "")
    monkeypatch.setattr(probe, "gpu_nodes", list)
    assert "--gpus all" in doctor.driver(None)["remedy"]
    monkeypatch.setattr(probe, "gpu_nodes", lambda: ["nvidia0"])
    assert "no driver answers" in doctor.driver(None)["found"]


def test_the_kernels_own_word(tmp_path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC 12\n")
    assert doctor.kernel_driver(file) == "580.159.04"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun\nGCC version: 12.3.0\n")
    assert doctor.kernel_driver(file) == "535.54.03"
    assert doctor.kernel_driver(tmp_path / "absent") == ""


@pytest.mark.parametrize("value, state", [("", "problem"), ("-1", "problem"), ("0,1", "ok")])
def test_hidden_cards(monkeypatch, value, state):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert doctor.visible()["state"] == state


def test_torch():
    assert doctor.torch_check(TORCH)["state"] == "ok"
    assert "Update the driver" in doctor.torch_check({**TORCH, "usable": False})["remedy"]
    assert "without CUDA" in doctor.torch_check({**TORCH, "cuda": None})["found"]
    assert doctor.torch_check("its import fails: OSError: libc")["state"] == "problem"


def test_cards_as_torch_sees_them():
    assert doctor.card_check(CARD)["state"] == "ok"
    full = doctor.card_check({**CARD, "free": 3 << 30})
    assert full["state"] == "warning" and "nvidia-smi" in full["remedy"]
    assert doctor.card_check({**CARD, "capability": [7, 5]})["state"] == "problem"
    assert doctor.cards_checks(None, TORCH)[0]["found"] == "no GPU is found"


def test_libraries_are_asked_in_processes_that_may_crash(monkeypatch):
    assert doctor._told_by('print(\'{"version": "1"}\')') == {"version": "1"}
    assert doctor._told_by("import os; os.abort()") == "its import fails: signal 6"
    assert "no_such_module" in doctor._told_by("import no_such_module")
    assert "nothing that can be read" in doctor._told_by("pass")
    monkeypatch.setattr(doctor, "TIMEOUT", 0.5)
    assert "too long" in doctor._told_by("import time; time.sleep(30)")


def test_flashinfer(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert doctor.flashinfer()["state"] == "warning"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "_told_by", lambda code: {"version": "0.6.14", "tvm_ffi": "0.1.15"})
    assert doctor.flashinfer()["found"] == "0.6.14, tvm-ffi 0.1.15, with modules compiled ahead"
    monkeypatch.setattr(doctor, "_told_by", lambda code: "its import fails: No module named 'tvm_ffi'")
    broken = doctor.flashinfer()
    assert broken["state"] == "problem" and "apache-tvm-ffi" in broken["remedy"]


def test_nvcc(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    compiler = tmp_path / "bin" / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.48'\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert doctor.nvcc() == {"check": "nvcc", "state": "ok", "found": f"13.0 at {compiler}", "remedy": ""}
    compiler.write_text("#!/bin/sh\nexit 1\n")
    assert doctor.nvcc()["state"] == "warning"


def test_all_checks_are_dicts_of_strings_and_import_no_torch():
    code = (
        "import json, sys; from sglcore_plugin_cuda.doctor import checks; found = checks(); "
        "assert 'torch' not in sys.modules; print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert {check["check"] for check in found} >= {"driver", "torch", "triton", "nvcc", "flashinfer"}
    for check in found:
        assert set(check) == {"check", "state", "found", "remedy"}
        assert check["state"] in ("ok", "warning", "problem")
        assert check["remedy"] or check["state"] == "ok"


def test_the_spec_leads_there_and_bounds_agree():
    assert CUDA.doctor == "sglcore_plugin_cuda.doctor:checks"
    platform = pytest.importorskip("sglcore_plugin_cuda.platform", exc_type=ImportError)
    assert platform.OLDEST == doctor.OLDEST
