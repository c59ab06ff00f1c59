"""The black box: which requests the steps in flight are computing, kept where a killed process leaves it behind.

A small file, mapped into the engine's memory: a table seat -> request, and a slot per step in flight. Writing it
costs a few array stores a step; the parent reads it after a death to know whom to suspect. A step that was being
written when the process died may be missing or hold old rows: suspicion is a hint, never a verdict.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from sglcore.batch import Batch, StepResult
from sglcore.contracts.execution import PendingStep, StepExecutor
from sglcore.request import Branch

SLOTS = 4  # steps in flight, at most
NAME = 16  # bytes of a request id's digest


def digest(rid: str) -> bytes:
    """What stands for a request id of any length."""
    return hashlib.blake2b(rid.encode(), digest_size=NAME).digest()


class BlackBox:
    """The writing end. `rows`: seats."""

    def __init__(self, path: Path, rows: int) -> None:
        shape = (rows + SLOTS * (rows + 1) * 4 // NAME + SLOTS, NAME)
        map_ = np.memmap(path, dtype=np.uint8, mode="w+", shape=shape)
        self._names = map_[:rows]  # [rows, NAME]
        self._slots = _slots(map_, rows)

    def seat(self, row: int, rid: str) -> None:
        """A request has taken a seat."""
        self._names[row] = np.frombuffer(digest(rid), np.uint8)

    def began(self, batch: Batch) -> None:
        """A step is about to be computed."""
        slot = self._slots[batch.serial % SLOTS]
        slot[1 : 1 + len(batch.rows)] = batch.rows
        slot[0] = len(batch.rows)

    def ended(self, serial: int) -> None:
        """Its result is on the host."""
        self._slots[serial % SLOTS, 0] = 0


def in_flight(path: Path) -> set[bytes]:
    """Digests of the requests that the steps in flight were computing; empty where there is nothing to read."""
    try:
        map_ = np.fromfile(path, dtype=np.uint8).reshape(-1, NAME)
    except (OSError, ValueError):
        return set()
    rows = _rows(len(map_))
    found: set[bytes] = set()
    for slot in _slots(map_, rows):
        count = min(max(int(slot[0]), 0), rows)
        found |= {map_[row].tobytes() for row in slot[1 : 1 + count].tolist() if 0 <= row < rows}
    return found


def _slots(map_: np.ndarray, rows: int) -> np.ndarray:
    """int32 [SLOTS, rows + 1]: how many rows the step has, then which."""
    flat = map_[rows:].reshape(-1).view(np.int32)
    return flat[: SLOTS * (rows + 1)].reshape(SLOTS, rows + 1)


def _rows(lines: int) -> int:
    """Seats of a file of so many lines: the inverse of the shape above."""
    rows = (lines - SLOTS) * NAME // (NAME + SLOTS * 4)
    while rows + SLOTS * (rows + 1) * 4 // NAME + SLOTS < lines:
        rows += 1
    return rows


class RecordedExecutor:
    """An executor whose steps are written to a black box. Implements `StepExecutor`."""

    def __init__(self, own: StepExecutor, box: BlackBox, seated: list[Branch | None]) -> None:
        self.own = own
        self._box = box
        self._seated = seated

    def forward(self, batch: Batch) -> None:
        """Record, then queue the forward pass."""
        for entry in batch.entered:
            branch = self._seated[entry.row]
            if branch is not None:
                self._box.seat(entry.row, branch.rid)
        self._box.began(batch)
        self.own.forward(batch)

    def sample(self, batch: Batch, masks: Any = None) -> PendingStep:
        """Queue sampling; the step is over once its result was waited for."""
        return _Recorded(self.own.sample(batch, masks), self._box, batch.serial)

    def close(self) -> None:
        self.own.close()


class _Recorded:
    __slots__ = ("_box", "_pending", "_serial")

    def __init__(self, pending: PendingStep, box: BlackBox, serial: int) -> None:
        self._pending, self._box, self._serial = pending, box, serial

    def wait(self) -> StepResult:
        result = self._pending.wait()
        self._box.ended(self._serial)
        return result
