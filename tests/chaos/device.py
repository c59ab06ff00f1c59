"""A device without a model: executes batches over integer KV, keeps its own tables, and dies when told to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from chaos.reference import GARBAGE, draw, hashed, logprob, salt, slots, stop_ids
from sglcore.batch import Batch, RowEntry, StepResult
from sglcore.memory.ledger import KVLedger
from sglcore.request import Branch, TokenLogprobs

NEVER = 1 << 30


class Killed(BaseException):
    """The process is gone between two instructions: nothing in it can catch this."""


class DeviceLost(RuntimeError):
    """What a CUDA error looks like to the engine."""


@dataclass
class Fuse:
    """When the device dies next. `where`: forward, sample or wait; `after`: how many of these calls go well first."""

    where: str
    after: int
    error: type[BaseException]


@dataclass
class Faults:
    """What goes wrong, whichever engine runs.

    poison: ids whose presence in a batch kills the engine once they have computed so many tokens behind the prompt.
    not_finite: the position in the next batch of a row that gives NaN; -1: none. spoiled: ids of rows that were made
    so, by any engine: the last one may be dead before its client hears of it.
    """

    fuse: Fuse | None = None
    poison: dict[str, int] = field(default_factory=dict)
    not_finite: int = -1
    spoiled: set[str] = field(default_factory=set)

    def burn(self, where: str) -> None:
        if self.fuse is None or self.fuse.where != where:
            return
        self.fuse.after -= 1
        if self.fuse.after < 0:
            error, self.fuse = self.fuse.error, None
            raise error(f"The device was lost in {where}.")


@dataclass
class Seat:
    """What the device knows of the branch in a row; `history`: its tokens, where sampling follows them."""

    rid: str
    namespace: str
    entry: RowEntry
    history: list[int]


@dataclass
class Flight:
    """A step that has been launched and has not landed; `pages[g]` are those it reads or writes."""

    serial: int
    rows: frozenset[int]
    rids: frozenset[str]
    pages: list[np.ndarray]


class Device:
    """Implements `StepExecutor`. `seated`: the scheduler's branches by row, looked at when one enters.

    Work is done when it is launched, which is the order of one stream; what a real device would still be touching
    stands in `flights` until the result was waited for.
    """

    def __init__(self, ledger: KVLedger, eos: tuple[int, ...], faults: Faults, seated: list[Branch | None]) -> None:
        self.page_size, self.windows, self.eos = ledger.page_size, ledger.windows, eos
        self.faults, self.seated = faults, seated
        self.kv = [np.full(a.total * self.page_size, -1, dtype=np.int64) for a in ledger.allocators]
        self.table = [np.full(p.shape, -1, dtype=np.int32) for p in ledger.rows.pages]
        self.last = np.zeros(ledger.rows.size, dtype=np.int64)
        self.seats: dict[int, Seat] = {}
        self.flights: list[Flight] = []
        self.launches = 0
        self._result: StepResult | None = None

    # -- the contract --

    def forward(self, batch: Batch) -> None:
        self.launches += not batch.idle
        assert (batch.counts > 0).all(), "a row is planned with nothing to compute"
        self._apply(batch)
        for row, start in zip(batch.rows.tolist(), batch.starts.tolist(), strict=True):
            seat = self.seats[row]
            if start - seat.entry.prompt >= self.faults.poison.get(seat.rid, NEVER):
                raise Killed(f"{seat.rid} is poison")
        self.faults.burn("forward")
        self._result = self._run(batch)

    def sample(self, batch: Batch, masks: object = None) -> Landing:
        self.faults.burn("sample")
        assert self._result is not None
        return Landing(self, batch.serial, self._result)

    def close(self) -> None:
        self.flights.clear()

    # -- inside --

    def _apply(self, batch: Batch) -> None:
        for row in batch.left:
            assert row in self.seats, f"row {row} left and was empty"
            assert not any(row in f.rows for f in self.flights), f"row {row} left while a step with it is in flight"
            del self.seats[row]
            for table in self.table:
                table[row] = -1
        for entry in batch.entered:
            assert entry.row not in self.seats, f"two branches in row {entry.row}"
            branch = self.seated[entry.row]
            assert branch is not None and branch.index == entry.branch
            self.seats[entry.row] = Seat(branch.rid, branch.namespace, entry, entry.tokens.tolist())
            for table, pages in zip(self.table, entry.pages, strict=True):
                table[entry.row, : len(pages)] = pages
        for table, (row, index, page) in zip(self.table, batch.new_pages, strict=bool(batch.new_pages)):
            table[row, index] = page

    def _run(self, batch: Batch) -> StepResult:
        rows, count, cursor = batch.rows.tolist(), len(batch.rows), 0
        assert len(set(rows)) == count, "a row twice in a step"
        result = StepResult(np.full((count, 1), -1, np.int32), batch.samples.astype(np.int32), np.ones(count, bool))
        spoiled, self.faults.not_finite = self.faults.not_finite, -1
        for i, (row, start, n) in enumerate(zip(rows, batch.starts.tolist(), batch.counts.tolist(), strict=True)):
            if batch.from_table[i]:
                ids = self.last[row : row + 1]
            else:
                ids, cursor = batch.token_ids[cursor : cursor + n], cursor + n
            written = slots(ids, self.seats[row].namespace) if i != spoiled else GARBAGE
            for g, kv in enumerate(self.kv):
                kv[self._slots(g, row, start, start + n)] = written
            if batch.samples[i]:
                self._sample(i, row, start + n, result)
            if i in batch.input_logprobs:
                result.input_logprobs[i] = self._input_logprobs(row, start, *batch.input_logprobs[i])
            if i == spoiled:
                self.faults.spoiled.add(self.seats[row].rid)
                result.finite[i], result.num_tokens[i] = False, 0
        ends = (batch.starts + batch.counts).tolist()
        rids = frozenset(self.seats[row].rid for row in rows)
        touched = self._touched(rows, batch.starts.tolist(), ends)
        self.flights.append(Flight(batch.serial, frozenset(rows), rids, touched))
        return result

    def _sample(self, i: int, row: int, length: int, result: StepResult) -> None:
        seat = self.seats[row]
        entry, sampling = seat.entry, seat.entry.sampling
        seen = self._seen(row, length)
        forbidden = stop_ids(sampling, self.eos) if length - entry.prompt < sampling.min_new_tokens else frozenset()
        token = draw(seen, salt(sampling, entry.seed, entry.branch, length, seat.history), forbidden)
        result.tokens[i, 0] = self.last[row] = token
        if sampling.follows_tokens:
            seat.history.append(token)
        if entry.logprobs >= 0:
            result.logprobs[i] = TokenLogprobs(logprob(seen, token), token)

    def _input_logprobs(self, row: int, start: int, offset: int, followers: np.ndarray) -> list[TokenLogprobs]:
        seen = [self._seen(row, start + offset + k + 1) for k in range(len(followers))]
        return [TokenLogprobs(logprob(s, t), t) for s, t in zip(seen, followers.tolist(), strict=True)]

    def _seen(self, row: int, length: int) -> int:
        """The hash of what the position behind `length` tokens sees."""
        return hashed(
            self.kv[g][self._slots(g, row, max(0, length - window) if window else 0, length)]
            for g, window in enumerate(self.windows)
        )

    def _slots(self, group: int, row: int, start: int, end: int) -> np.ndarray:
        positions = np.arange(start, end)
        pages = self.table[group][row, positions // self.page_size]
        assert (pages >= 0).all(), f"row {row} touches a position without a page"
        return pages * self.page_size + positions % self.page_size

    def _touched(self, rows: list[int], starts: list[int], ends: list[int]) -> list[np.ndarray]:
        """Pages by group: from the first that the first new position sees to that of the last new position."""
        size, found = self.page_size, []
        for table, window in zip(self.table, self.windows, strict=True):
            parts = []
            for row, start, end in zip(rows, starts, ends, strict=True):
                first = max(0, start + 1 - window) // size if window else 0
                parts.append(table[row, first : -(-end // size)])
            found.append(np.concatenate(parts) if parts else np.empty(0, np.int32))
        return found


class Landing:
    """A step in flight."""

    __slots__ = ("_device", "_result", "_serial")

    def __init__(self, device: Device, serial: int, result: StepResult) -> None:
        self._device, self._serial, self._result = device, serial, result

    def wait(self) -> StepResult:
        self._device.faults.burn("wait")
        self._device.flights = [f for f in self._device.flights if f.serial != self._serial]
        return self._result
