"""Mutants: one wrong line each, in a copy of the package; the simulation must notice every one.

`python -m chaos.mutants` (from tests/) applies each to a copy, plays runs until one fails, and prints the table.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = "0:400"
TIME_LIMIT = 600.0


@dataclass(frozen=True)
class Mutant:
    """In `file` the first `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant("dropped unlock", "memory/ledger.py", "            self.tree.unlock(node)\n", "            pass\n"),
    Mutant("lock not moved on commit", "memory/ledger.py", ", moved_from=old)", ")"),
    Mutant("prefix not locked", "memory/ledger.py", "        self.tree.lock(match.node)\n", ""),
    Mutant("pages kept on release", "memory/ledger.py", "allocator.give(self.held_by(row, g))", "pass"),
    Mutant(
        "duplicates forgotten",
        "memory/ledger.py",
        "                self._duplicates[row][g].append(duplicates)\n",
        "                pass\n",
    ),
    Mutant("duplicates freed twice", "memory/ledger.py", "            self._duplicates[row][g].clear()\n", ""),
    Mutant(
        "a page too few",
        "memory/ledger.py",
        "        return -(-tokens // self.page_size)\n",
        "        return tokens // self.page_size\n",
    ),
    Mutant(
        "a page too early in the tree",
        "memory/ledger.py",
        "int(self.n_tree[row]), count // self.page_size",
        "int(self.n_tree[row]), -(-count // self.page_size)",
    ),
    Mutant(
        "uncomputed tokens cached",
        "scheduler/seats.py",
        "min(int(t.computed[row]), int(t.length[row]))",
        "int(t.length[row])",
    ),
    Mutant(
        "seat given up in flight", "scheduler/seats.py", "if branch is None or t.in_flight[row]:", "if branch is None:"
    ),
    Mutant("a step in flight not counted", "scheduler/changes.py", "        t.in_flight[rows] += 1\n", ""),
    Mutant("lost abort of what waits", "scheduler/lives.py", "            self.seats.queue.remove(branch)\n", ""),
    Mutant("lost abort of what runs", "scheduler/lives.py", "                self.close(branch, finish, kept)\n", ""),
    Mutant(
        "retracted branch forgotten",
        "scheduler/seats.py",
        "            self.queue.push_back(branch)\n",
        "            pass\n",
    ),
    Mutant(
        "last prompt token from the cache",
        "scheduler/queue.py",
        "len(branch.tokens) - 1, first_owed",
        "len(branch.tokens), first_owed",
    ),
    Mutant("stale stop ids", "scheduler/finish.py", "        self._custom.pop(row, None)\n", ""),
    Mutant(
        "a token past the limit",
        "scheduler/finish.py",
        "(table.length[rows] >= table.limit[rows])",
        "(table.length[rows] > table.limit[rows])",
    ),
    Mutant("late epoch accepted", "engine/client.py", " and out.epoch == stream.record.epoch:", ":"),
    Mutant(
        "delivered tokens forgotten", "engine/replay.py", "        self.tokens[out.branch].extend(out.token_ids)\n", ""
    ),
    Mutant(
        "ended branch run again", "engine/replay.py", "            self.ended.add(out.branch)\n", "            pass\n"
    ),
    Mutant(
        "poison never given up",
        "engine/replay.py",
        "        poison = [] if groups else suspects\n",
        "        poison = []\n        groups = groups or [suspects]\n",
    ),
    Mutant(
        "seed drawn anew",
        "engine/client.py",
        "request = msgspec.structs.replace(self._seeded(request), epoch",
        "request = msgspec.structs.replace(request, epoch",
    ),
    Mutant("namespaces mixed up", "memory/ledger.py", "self.tree.match(namespace, ", 'self.tree.match("", '),
    Mutant(
        "owner kept after the end",
        "engine/loop.py",
        "            del self._branches[rid], self.owner[rid]\n",
        "            del self._branches[rid]\n",
    ),
)


def tried(mutant: Mutant, seeds: str = SEEDS) -> str | None:
    """What noticed it, in a line; None if nothing did. Raises ValueError where the source has no such line."""
    with tempfile.TemporaryDirectory(prefix="sglcore-mutant-") as folder:
        package = Path(folder) / "sglcore"
        shutil.copytree(ROOT / "src" / "sglcore", package, ignore=shutil.ignore_patterns("__pycache__"))
        file = package / mutant.file
        text = file.read_text()
        if mutant.old not in text:
            raise ValueError(f"mutant {mutant.name!r}: {mutant.file} has no {mutant.old!r}")
        file.write_text(text.replace(mutant.old, mutant.new, 1))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(ROOT / "tests")])}
        command = [sys.executable, "-m", "chaos.drive", "--seeds", seeds, "--brief"]
        try:
            done = subprocess.run(
                command, env=environment, cwd=ROOT / "tests", capture_output=True, text=True, timeout=TIME_LIMIT
            )
        except subprocess.TimeoutExpired:
            return "no run ended in time"
        if not done.returncode:
            return None
        told = [line for line in done.stderr.splitlines() if line.startswith("FAILED")] or done.stderr.splitlines()[-1:]
        return told[0][:160]


def main() -> int:
    missed = 0
    print("| Mutant | File | Noticed by |\n|---|---|---|")
    for mutant in MUTANTS:
        found = tried(mutant)
        missed += found is None
        print(f"| {mutant.name} | `{mutant.file}` | {(found or '**nothing**').replace('|', '/')} |", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
