"""`sglcore bench startup`: from the start of `sglcore serve` to its first token, phase by phase, cold and warm."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from sglcore.bench.charts import Chart, Report, Series
from sglcore.errors import ConfigError

PHASE = re.compile(r"\s+(\w[\w ]*?)\s+([\d.]+) s$")
READY = re.compile(r" serves .* at (http://\S+)")
OUTSIDE = "outside phases"  # processes, imports, what stands between phases
STOP_SECONDS = 60.0
ANSWER_SECONDS = 600.0
ENDS = ("ready", "first_token")
KEPT = 30  # lines of the log that a failure repeats


def starts(
    arguments: Sequence[str], environment: Mapping[str, str], files: Path, cold: int, warm: int, timeout: float
) -> Iterator[dict[str, Any]]:
    """The figures of each start: first `cold` ones, for which `files` are put out of the page cache, then warm ones.

    Where files cannot be put out (another system), a cold start is called warm. Raises ConfigError where one fails.
    """
    for number in range(cold + warm):
        kind = "cold" if number < cold and dropped(files) else "warm"
        yield {"start": kind, **one_start(arguments, environment, timeout)}


def dropped(path: Path) -> bool:
    """Put a model's files out of the page cache; False where the system cannot be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return False
    files = [path] if path.is_file() else [f for f in sorted(path.rglob("*")) if f.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def one_start(arguments: Sequence[str], environment: Mapping[str, str], timeout: float) -> dict[str, Any]:
    """{"phases": seconds by name, "ready": and "first_token": seconds from the start of the process}."""
    began = time.perf_counter()
    with serving(arguments, environment) as (_, lines):
        url, phases = until_ready(lines, began + timeout)
        ready = time.perf_counter() - began
        first_token(url, environment.get("SGLCORE_API_KEY", ""))
        phases[OUTSIDE] = max(ready - sum(phases.values()), 0.0)
        return {"phases": phases, "ready": ready, "first_token": time.perf_counter() - began}


@contextmanager
def serving(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str | None]]]:
    """`sglcore serve` on a free port, and the lines it tells; ended with the block."""
    command = [sys.executable, "-m", "sglcore", "serve", *arguments, "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    lines: queue.Queue[str | None] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(target=_read, args=(process.stderr, lines), daemon=True)
    reader.start()
    try:
        yield process, lines
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        reader.join(STOP_SECONDS)


def until_ready(lines: queue.Queue[str | None], deadline: float) -> tuple[str, dict[str, float]]:
    """(where it serves, seconds of each phase it told of). Raises ConfigError if it ends or takes too long."""
    phases: dict[str, float] = {}
    seen: list[str] = []
    while True:
        try:
            line = lines.get(timeout=max(deadline - time.perf_counter(), 0.0))
        except queue.Empty:
            raise ConfigError("The server did not get ready in time.", remedy="Raise --start-timeout.") from None
        if line is None:
            told = " ".join(seen[-KEPT:]) or "it said nothing"
            raise ConfigError(f"The server did not start: {told}")
        seen.append(line.strip())
        if found := PHASE.match(line):
            phases[found[1]] = float(found[2])
        if found := READY.search(line):
            return found[1], phases


def first_token(url: str, key: str) -> None:
    """Ask for one token by its ids and wait for it. Raises ConfigError where it does not come."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=ANSWER_SECONDS)
    body = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 1, "ignore_eos": True}, "stream": True}
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    try:
        connection.request("POST", "/generate", json.dumps(body).encode(), headers)
        response = connection.getresponse()
        line = response.readline()
        if response.status != 200 or not line.startswith(b"data:"):
            raise ConfigError(f"/generate gave no token: HTTP {response.status} {line[:200]!r}.")
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(f"/generate gave no token: {error or type(error).__name__}.") from None
    finally:
        connection.close()


def summary(results: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Sections of a table: medians of the cold starts and of the warm ones."""
    sections: list[tuple[str, list[tuple[str, Any]]]] = []
    for kind in ("cold", "warm"):
        some = [r for r in results if r["start"] == kind]
        if not some:
            continue
        names = phase_names(some)
        rows = [(f"{name.replace('_', ' ')} (s)", v) for name, v in zip(names, medians(some, names), strict=True)]
        sections.append((f"{kind}, median of {len(some)}", rows))
    return sections


def report(results: Sequence[dict[str, Any]]) -> Report:
    """Medians by phase, and each start's way to its first token."""
    sections = summary(results)
    facts = [(f"{title}: {name}", f"{value:.2f}") for title, rows in sections for name, value in rows[-len(ENDS) :]]
    names = phase_names(results)
    series = []
    for kind in dict.fromkeys(r["start"] for r in results):
        values = medians([r for r in results if r["start"] == kind], names)
        series.append(Series(kind, list(map(float, range(len(names)))), values))
    each = Series("", list(map(float, range(len(results)))), [r["first_token"] for r in results])
    charts = [
        Chart("Phases, and when it was ready and gave a token (median)", "", "s", series, list(map(_short, names))),
        Chart("To the first token, start by start", "", "s", [each], [r["start"] for r in results]),
    ]
    return Report("sglcore bench startup", facts, charts)


def phase_names(results: Sequence[dict[str, Any]]) -> list[str]:
    """The phases that any start told of, in order, then `ENDS`."""
    return [*dict.fromkeys(name for r in results for name in r["phases"]), *ENDS]


def medians(some: Sequence[dict[str, Any]], names: Sequence[str]) -> list[float]:
    """Of each phase or end, over some starts; a phase that one did not have took it no time."""
    flat = [one["phases"] | {key: one[key] for key in ENDS} for one in some]
    return [statistics.median(one.get(name, 0.0) for one in flat) for name in names]


def _short(name: str) -> str:
    return name.replace("_", " ").replace("allocate ", "").replace("import ", "").replace("capture ", "")


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
