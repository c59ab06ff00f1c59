from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from sglcore.builtin import cpu, cpu_features, cpu_limits
from sglcore.builtin.compute_specs import CPU, TORCH_ATTENTION
from sglcore.builtin.cpu import CpuLauncher, CpuPlatform
from sglcore.builtin.cpu_features import AVX512
from sglcore.errors import EngineDead

MIB = 1 << 20


def test_work_runs_in_order_on_one_other_thread() -> None:
    launcher = CpuLauncher()
    seen: list[tuple[int, int]] = []

    def work(i: int) -> int:
        seen.append((i, threading.get_ident()))
        return i * i

    jobs = [launcher.launch(lambda i=i: work(i)) for i in range(50)]
    assert [job.wait() for job in jobs] == [i * i for i in range(50)]
    assert [i for i, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()
    launcher.close()


def test_launch_returns_before_the_work_is_done() -> None:
    launcher, gate = CpuLauncher(), threading.Event()
    job = launcher.launch(gate.wait)
    after = launcher.launch(lambda: "after")  # queued behind work that cannot have ended
    gate.set()
    assert job.wait() is True
    assert after.wait() == "after"
    launcher.close()


def test_work_may_wait_for_work_queued_before_it() -> None:
    launcher = CpuLauncher()
    first = launcher.launch(lambda: 20)
    assert launcher.launch(lambda: first.wait() + 1).wait() == 21
    launcher.close()


def test_an_error_reaches_the_waiter_and_the_thread_lives_on() -> None:
    launcher = CpuLauncher()

    def fails() -> None:
        raise ValueError("spoiled")

    job = launcher.launch(fails)
    for _ in range(2):
        with pytest.raises(ValueError, match="spoiled"):
            job.wait()
    assert launcher.launch(lambda: 3).wait() == 3
    launcher.close()


@pytest.mark.parametrize("inline", [False, True])
def test_work_runs_in_inference_mode(inline: bool) -> None:
    launcher = CpuLauncher(inline=inline)
    assert launcher.launch(torch.is_inference_mode_enabled).wait() is True
    assert not torch.is_inference_mode_enabled()
    launcher.close()


def test_inline_runs_at_launch_on_the_caller() -> None:
    launcher, seen = CpuLauncher(inline=True), []
    job = launcher.launch(lambda: seen.append(threading.get_ident()))
    assert seen == [threading.get_ident()]
    assert job.wait() is None
    launcher.close()
    with pytest.raises(EngineDead):
        launcher.launch(lambda: None)


def test_close_finishes_what_is_queued_and_is_idempotent() -> None:
    launcher, gate, done = CpuLauncher(), threading.Event(), []
    launcher.launch(gate.wait)
    for i in range(3):
        launcher.launch(lambda i=i: done.append(i))
    gate.set()
    launcher.close()
    launcher.close()
    assert done == [0, 1, 2]
    assert not [t for t in threading.enumerate() if t.name == "sglcore-device"]
    with pytest.raises(EngineDead):
        launcher.launch(lambda: None)


def test_close_from_the_device_thread_does_not_hang() -> None:
    launcher = CpuLauncher()
    assert launcher.launch(lambda: launcher.close() or "closed").wait() == "closed"
    launcher.close()


def test_an_idle_device_thread_uses_no_cpu() -> None:
    launcher = CpuLauncher()
    thread = next(t for t in threading.enumerate() if t.name == "sglcore-device")
    ticks = Path(f"/proc/self/task/{thread.native_id}/stat")
    if not ticks.exists():
        pytest.skip("needs /proc")

    def used() -> int:
        fields = ticks.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    launcher.launch(lambda: None).wait()
    before = used()
    spun = sum(i * i for i in range(3_000_000))  # well over a tick of this thread's time
    assert spun > 0
    assert used() - before <= 1
    launcher.close()


def test_half_types_stay_only_where_the_cpu_has_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = CpuPlatform()

    def machine(*has: str) -> None:
        monkeypatch.setattr(cpu_features, "cpu_flags", lambda: frozenset(has))

    machine("avx2", "fma")
    assert platform.default_dtype(torch.bfloat16) == platform.default_dtype(torch.float16) == torch.float32
    machine(*AVX512, "avx512_bf16")
    assert platform.default_dtype(torch.bfloat16) == torch.bfloat16
    assert platform.default_dtype(torch.float16) == torch.float32
    assert platform.default_dtype(torch.float64) == torch.float64
    assert CPU.dtype_for("bfloat16") == "bfloat16" and CPU.dtype_for("float16") == "float32"


def machine_files(tmp_path: Path, available: int, cgroup_line: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 999999 kB\nMemAvailable: {available // 1024} kB\n")
    (proc / "self" / "cgroup").write_text(cgroup_line)
    for name, content in files.items():
        (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / name).write_text(content)
    return proc, cgroup


def test_memory_is_what_the_machine_has_without_limits(tmp_path: Path) -> None:
    places = machine_files(tmp_path, 800 * MIB, "0::/\n", {"memory.max": "max\n", "memory.current": "5\n"})
    assert cpu_limits.available_memory(*places) == 800 * MIB


def test_memory_obeys_a_version_2_limit_of_any_ancestor(tmp_path: Path) -> None:
    files = {
        "a/memory.max": f"{300 * MIB}\n",
        "a/memory.current": f"{100 * MIB}\n",
        "a/memory.stat": f"anon 1\ninactive_file {20 * MIB}\n",
        "a/b/memory.max": "max\n",
    }
    assert cpu_limits.available_memory(*machine_files(tmp_path, 800 * MIB, "0::/a/b\n", files)) == 220 * MIB


def test_memory_obeys_a_version_1_limit(tmp_path: Path) -> None:
    files = {
        "memory/x/memory.limit_in_bytes": f"{64 * MIB}",
        "memory/x/memory.usage_in_bytes": f"{80 * MIB}",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    lines = "5:cpu:/y\n4:memory:/x\n0::/\n"
    assert cpu_limits.available_memory(*machine_files(tmp_path, 800 * MIB, lines, files)) == 0


def test_cpus_obey_the_quota_of_either_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_limits.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    v2 = machine_files(tmp_path / "2", MIB, "0::/a\n", {"a/cpu.max": "250000 100000\n", "cpu.max": "max 100000\n"})
    assert cpu_limits.usable_cpus(*v2) == 3
    v1 = machine_files(
        tmp_path / "1",
        MIB,
        "4:cpu,cpuacct:/a\n",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
    )
    assert cpu_limits.usable_cpus(*v1) == 1
    free = machine_files(tmp_path / "0", MIB, "0::/\n", {"cpu.max": "max 100000\n"})
    assert cpu_limits.usable_cpus(*free) == 16


def test_free_memory_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = CpuPlatform()
    monkeypatch.setattr(cpu, "available_memory", lambda: 8192 * MIB)
    assert platform.free_memory() == 7168 * MIB
    monkeypatch.setattr(cpu, "available_memory", lambda: 100 * MIB)
    assert platform.free_memory() == 0


def test_the_real_machine_has_memory_and_cpus() -> None:
    assert cpu_limits.available_memory() > 0
    assert cpu_limits.usable_cpus() >= 1
    assert CpuPlatform().unavailable() is None


def test_specs_lead_to_their_classes_and_import_no_torch() -> None:
    assert CPU.load() is CpuPlatform
    assert TORCH_ATTENTION.load().__name__ == "TorchAttention"
    code = "import sys, sglcore.builtin.compute_specs, sglcore.testing, sglcore.layers; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
