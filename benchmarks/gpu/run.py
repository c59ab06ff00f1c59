"""Correctness on this GPU, then the whole table: a line a part while it runs, a short table last, all of it as JSON.

    python benchmarks/gpu/run.py [--only PART,...] [--quick] [--peer vllm,...] [--json FILE] [NAME=VALUE ...]

Every part is a process of its own with a time limit, so that one that fails or hangs does not end the rest. NAME=VALUE
are engine flags for all of them. Figures of parts that `--only` leaves out are kept from FILE, if it is from the same
card and versions. Exit status 1 if a part failed; a figure short of its bar is no failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import facts
from shapes import MODELS
from sizes import SIZES
from table import lines, text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TAIL = 40  # lines of a failed part that are kept
STOP_SECONDS = 45.0
PEERS = ("vllm", "sglang", "transformers")


@dataclass(frozen=True)
class Part:
    """`command`: behind the interpreter; `limit`: seconds. A part that measures writes its figures to `json`."""

    name: str
    command: tuple[str, ...]
    limit: float
    json: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a part: `status` is "ok", "failed (N)" or "out of time"."""

    status: str
    seconds: float
    output: list[str]
    figures: dict[str, Any]


NAMES = ("correctness", "llama", "http", "first_token", "idle", "qwen", "fallback")
# A part that needs figures of `llama`, where that is not asked for itself -> which of them, and batches.
NEEDS = {"http": ("offline,shared", None), "fallback": ("decode", "64")}


def plan(only: Iterable[str], size: str, flags: list[str], folder: Path, model: str = "llama-8b") -> list[Part]:
    """The processes, in order, for the parts that were named."""
    wanted = set(only)
    found: list[Part] = []

    def script(part: str, file: str, limit: float, *arguments: str) -> None:
        out = folder / f"{part}.json"
        command = (str(HERE / file), *arguments, "--size", size, "--json", str(out), *flags)
        found.append(Part(part, command, limit, out))

    if "correctness" in wanted:
        for place in ("tests/gpu", *(("plugins",) if size == "full" else ())):
            found.append(Part(f"correctness:{place}", ("-m", "pytest", "-m", "gpu", "-q", place), 900))
    if "llama" in wanted or wanted & set(NEEDS):
        script("llama", "offline.py", 600, "--model", model, *_of_llama(wanted))
    if "http" in wanted:
        script("http", "over_http.py", 420, "--model", model, "--offline", str(folder / "llama.json"))
    if "first_token" in wanted:
        script("first_token", "first_token.py", 420, "--model", model)
    if "idle" in wanted:
        script(
            "idle", "trace.py", 240, "--model", model, "--batch", "256", "--steps", "200" if size == "full" else "60"
        )
    if "qwen" in wanted:
        script("qwen", "offline.py", 600, "--model", "qwen3-30b-a3b", "--only", "decode,prefill")
    if "fallback" in wanted:
        flags = [*flags, "model_impl=transformers"]
        script("fallback", "offline.py", 300, "--model", model, "--only", "decode", "--batches", "64")
    return found


def _of_llama(wanted: set[str]) -> list[str]:
    if "llama" in wanted:
        return []
    parts = [NEEDS[name] for name in NEEDS if name in wanted]
    batches = [batch for _, batch in parts if batch]
    return ["--only", ",".join(part for part, _ in parts), *(("--batches", batches[0]) if batches else ())]


def peer_plan(peers: Iterable[str], only: Iterable[str], size: str, folder: Path) -> list[Part]:
    """The offline measurements, asked of other engines."""
    found = []
    models = {"llama": ("llama-8b", "decode,prefill,offline,shared"), "qwen": ("qwen3-30b-a3b", "decode,prefill")}
    for peer in peers:
        for part, (model, what) in models.items():
            if part in only:
                out = folder / f"{peer}-{part}.json"
                command = ("--peer", peer, "--model", model, "--only", what, "--size", size)
                found.append(
                    Part(f"{peer}:{part}", (str(HERE / "offline.py"), *command, "--json", str(out)), 1200, out)
                )
    return found


def carry_out(part: Part) -> Outcome:
    """Run a part to its end or its limit, showing its lines; what it started is ended with it."""
    start, output = time.monotonic(), []
    process = subprocess.Popen(
        [sys.executable, *part.command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
        start_new_session=True,
    )
    ends = [
        threading.Timer(part.limit, _signal, (process.pid, signal.SIGTERM)),
        threading.Timer(part.limit + STOP_SECONDS, _signal, (process.pid, signal.SIGKILL)),
    ]
    for end in ends:
        end.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line.rstrip())
            print(f"  {line.rstrip()}", flush=True)
        process.wait()
    finally:
        for end in ends:
            end.cancel()
        _signal(process.pid, signal.SIGKILL)
        process.wait()
    seconds = time.monotonic() - start
    figures = json.loads(part.json.read_text()) if part.json and part.json.exists() else {}
    status = "ok" if process.returncode == 0 else f"failed ({process.returncode})"
    return Outcome("out of time" if seconds >= part.limit else status, round(seconds, 1), output, figures)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def passed(output: list[str]) -> str:
    """pytest's own last line: what passed, failed and was skipped."""
    found = [line.strip("= ") for line in output if re.search(r"\d+ (passed|failed|skipped|error)|no tests ran", line)]
    return found[-1] if found else "no summary"


def correct(outcome: Outcome) -> bool:
    """Whether tests ran, and none failed."""
    return outcome.status == "ok" and " passed" in f" {passed(outcome.output)}"


def kept(file: Path | None, machine: dict[str, str], size: str) -> dict[str, Any]:
    """Parts of an earlier file of this size from the same card and versions."""
    if file is None or not file.exists():
        return {}
    told = json.loads(file.read_text())
    same = told.get("machine") == machine and told.get("size") == size
    return dict(told["parts"]) if same else {}


def main() -> int:
    """Run, print, write; the exit status."""
    asked = arguments()
    machine, only = facts(), asked.only.split(",")
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    told: dict[str, Any] = {"date": now(), "machine": machine, "size": asked.size}
    told["parts"] = kept(asked.json, machine, asked.size)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts = plan(only, asked.size, asked.flags, folder, asked.model)
        parts += peer_plan(asked.peer, only, asked.size, folder)
        for part in parts:
            print(f"== {part.name}", flush=True)
            outcome = carry_out(part)
            before = told["parts"].get(part.name, {}).get("figures", {})  # a part may be run in part
            entry: dict[str, Any] = {"status": outcome.status, "date": now(), "seconds": outcome.seconds}
            entry["figures"] = {**before, **outcome.figures} if outcome.status == "ok" else outcome.figures
            if part.json is None:
                entry["tests"] = passed(outcome.output)
            if outcome.status != "ok" or (part.json is None and not correct(outcome)):
                failed.append(part.name)
                entry["tail"] = outcome.output[-TAIL:]
            told["parts"][part.name] = entry
            told["rows"] = rows(told)
            if asked.json:  # after each part: what is measured is kept whatever comes
                asked.json.write_text(json.dumps(told, indent=1) + "\n")
    print(f"\n{report(told)}")
    return 1 if failed else 0


def now() -> str:
    """The day and minute, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NAMES), help="comma-separated: " + ", ".join(NAMES))
    told = "fewer requests and batches: a look, not the table"
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", help=told)
    parser.add_argument("--size", choices=SIZES, default="full", help="trial: as little as there is")
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-8b", help="in place of the 8B, for a trial")
    parser.add_argument("--peer", default="", help="comma-separated: " + ", ".join(PEERS))
    parser.add_argument("--json", type=Path, help="file of all figures; written after each part")
    parser.add_argument("flags", nargs="*", help="NAME=VALUE engine flags")
    asked = parser.parse_args()
    asked.peer = [name for name in asked.peer.split(",") if name]
    for given, known in ((asked.only.split(","), NAMES), (asked.peer, PEERS)):
        if unknown := set(given) - set(known):
            parser.error(f"no such part or peer: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return asked


def rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The table as JSON."""
    figures = {name: part["figures"] for name, part in told["parts"].items() if part["figures"] or ":" not in name}
    return [
        {"what": line.row.what.strip(), "value": line.value, "unit": line.row.unit, "bar": line.row.bar,
         "at_most": line.row.most, "best_peer": line.row.best, "peers": dict(line.peers), "verdict": line.verdict}
        for line in lines(figures, told["size"])
    ]  # fmt: skip


def report(told: dict[str, Any]) -> str:
    """Parts that have no figures or failed, then the table."""
    found = [
        f"{told['machine'].get('device', '')}, {told['date']}" + ("" if told["size"] == "full" else f", {told['size']}")
    ]
    for name, part in told["parts"].items():
        if "tests" in part or part["status"] != "ok":
            found.append(f"{name}: {part['status']}, {part['seconds']:.0f} s  {part.get('tests', '')}".rstrip())
    figures = {name: part["figures"] for name, part in told["parts"].items() if part["figures"] or ":" not in name}
    return "\n".join([*found, text(lines(figures, told["size"]))])


if __name__ == "__main__":
    sys.exit(main())
