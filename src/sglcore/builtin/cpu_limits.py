"""What this process may use of the machine: memory and CPUs, under the limits of its control group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
UNLIMITED = 1 << 60  # version 1 says "no limit" with a number near 2^63


def available_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Bytes that can be allocated now without swapping, the tightest control group's room included."""
    return min([_machine_memory(proc), *_cgroup_rooms(proc, cgroup)])


def usable_cpus(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """CPUs this process may keep busy: its affinity, cut to the control group's quota (rounded up)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for directory in _groups(proc, cgroup, "cpu"):
        quota, period = _cpu_quota(directory)
        if quota > 0 and period > 0:
            count = min(count, max(1, -(-quota // period)))
    return count


def _machine_memory(proc: Path) -> int:
    for line in _read(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # no better word: half the machine
    except (ValueError, OSError, AttributeError):
        return 1 << 30


def _cgroup_rooms(proc: Path, cgroup: Path) -> Iterator[int]:
    for directory in _groups(proc, cgroup, "memory"):
        limit = _number(directory / "memory.max") or _number(directory / "memory.limit_in_bytes")
        if limit is None or limit >= UNLIMITED:
            continue
        used = _number(directory / "memory.current") or _number(directory / "memory.usage_in_bytes") or 0
        yield max(0, limit - used + _reclaimable(directory))


def _reclaimable(directory: Path) -> int:
    """File cache that the kernel gives back under pressure; it counts as used."""
    found = {}
    for line in _read(directory / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        found[name] = value
    value = found.get("total_inactive_file") or found.get("inactive_file") or "0"
    return int(value) if value.isdigit() else 0


def _cpu_quota(directory: Path) -> tuple[int, int]:
    """(quota, period) in microseconds; (0, 0) where there is no limit."""
    words = _read(directory / "cpu.max").split()
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]), int(words[1])
    quota, period = _number(directory / "cpu.cfs_quota_us"), _number(directory / "cpu.cfs_period_us")
    return (quota, period) if quota and period else (0, 0)


def _groups(proc: Path, cgroup: Path, controller: str) -> Iterator[Path]:
    """The process's control group and its ancestors, of version 1 (by controller) or 2."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroup / controllers if controllers else cgroup
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:depth])


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
