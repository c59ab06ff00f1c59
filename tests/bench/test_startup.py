"""What a start says of itself, and what is done about one that fails."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sglcore.bench.startup import dropped, first_token, report, serving, summary, until_ready
from sglcore.errors import ConfigError

TOLD = [
    "  open model             0.06 s\n",
    "  KV pool                0.02 s\n",
    "something else\n",
    "sglcore 1 serves demo at http://127.0.0.1:4321 (ready in 2.1 s)\n",
]
RESULTS = [
    {"start": "cold", "phases": {"load weights": 3.0}, "ready": 4.0, "first_token": 4.5},
    {"start": "warm", "phases": {"load weights": 1.0}, "ready": 2.0, "first_token": 2.5},
    {"start": "warm", "phases": {"load weights": 2.0, "capture graphs": 1.0}, "ready": 3.0, "first_token": 3.5},
]


def lines(*told: str | None) -> queue.Queue[str | None]:
    found: queue.Queue[str | None] = queue.Queue()
    for line in told:
        found.put(line)
    return found


def soon() -> float:
    return time.perf_counter() + 30


def test_phases_and_address_are_read_from_the_log() -> None:
    url, phases = until_ready(lines(*TOLD), soon())
    assert url == "http://127.0.0.1:4321"
    assert phases == {"open model": 0.06, "KV pool": 0.02}


def test_a_start_that_ends_says_why() -> None:
    with pytest.raises(ConfigError, match="did not start: No such model"):
        until_ready(lines("No such model.\n", None), soon())


def test_a_start_that_takes_too_long() -> None:
    with pytest.raises(ConfigError, match="in time"):
        until_ready(lines(TOLD[0]), time.perf_counter())


def test_the_process_is_gone_with_the_block() -> None:
    environment = dict(os.environ, HF_HUB_OFFLINE="1")
    with (
        pytest.raises(ConfigError, match="did not start"),
        serving(["no/such-model-here", "--log-level=error"], environment) as (process, told),
    ):
        until_ready(told, time.perf_counter() + 90)
    assert process.poll() is not None


def test_nobody_gives_a_token() -> None:
    with pytest.raises(ConfigError, match="gave no token"):
        first_token("http://127.0.0.1:9", "")


def test_medians_of_cold_and_warm_starts() -> None:
    cold, warm = summary(RESULTS)
    assert cold == ("cold, median of 1", [("load weights (s)", 3.0), ("ready (s)", 4.0), ("first token (s)", 4.5)])
    assert warm[0] == "warm, median of 2"
    assert dict(warm[1]) == {
        "load weights (s)": 1.5,
        "capture graphs (s)": 0.5,
        "ready (s)": 2.5,
        "first token (s)": 3.0,
    }
    assert [len(chart.series) for chart in report(RESULTS).charts] == [2, 1]


RESIDENT = """
import ctypes, mmap, os, sys
size = os.path.getsize(sys.argv[1])
with open(sys.argv[1], "rb") as f:
    m = mmap.mmap(f.fileno(), size, access=mmap.ACCESS_COPY)
pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
seen = (ctypes.c_ubyte * pages)()
address = ctypes.addressof(ctypes.c_char.from_buffer(m))
ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), seen)
print(sum(x & 1 for x in seen))
"""


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot be asked to drop files")
def test_files_are_put_out_of_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"x" * (1 << 20))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())

    def resident() -> int:
        done = subprocess.run([sys.executable, "-c", RESIDENT, str(file)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    before = resident()
    assert dropped(tmp_path) and dropped(file)
    assert before > 0
    if not _on_memory(tmp_path):
        assert resident() < before


def _on_memory(path: Path) -> bool:
    """Whether the folder is on a file system that is nothing but memory, where nothing can be dropped."""
    kinds = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True)
    return kinds.stdout.strip() in ("tmpfs", "ramfs", "overlayfs")
