"""Recovery: who runs again after an engine's death, decided in one place for the requests of all API processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from sglcore.engine.blackbox import digest
from sglcore.engine.replay import Quarantine


class Opened(msgspec.Struct, frozen=True):
    """A request that is open when an engine has died. `since`: monotonic seconds, the same clock in every process of
    a machine; `suspect`: it was submitted to that engine."""

    rid: str
    since: float
    suspect: bool


class Side(Protocol):
    """An API process, as far as it is told what becomes of its requests. Of one that it has no longer, nothing."""

    def again(self, rids: list[str]) -> None:
        """Submit these to the engine of now."""

    def give_up(self, rid: str) -> None:
        """It alone killed an engine: end it with an error."""

    def refuse(self, rid: str) -> None:
        """Another process has a request with this id: end it with an error."""


class Recovery:
    """The quarantine and whose requests are in it. `held`: there is no engine, so nobody is let go.

    replayed: requests told again to a new engine, over all deaths. poisoned: those given up because they alone
    killed one.
    """

    def __init__(self) -> None:
        self.quarantine = Quarantine()
        self.held = False
        self.replayed = 0
        self.poisoned = 0
        self._sides: dict[str, Side] = {}  # of every request that the quarantine knows

    @property
    def active(self) -> bool:
        """Whether new requests have to `wait`, and who gets on or ends must be told of."""
        return self.quarantine.active

    def died(self, opened: Mapping[Side, Iterable[Opened]], in_flight: set[bytes]) -> None:
        """A new engine runs. `opened`: what each process has open; `in_flight`: what the old one's black box says."""
        self.held, self._sides = False, {}
        suspects = []
        everyone = ((one, side) for side, some in opened.items() for one in some)
        for one, side in sorted(everyone, key=lambda pair: pair[0].since):
            if one.rid in self._sides:
                side.refuse(one.rid)
                continue
            self._sides[one.rid] = side
            # Not those that came while there was none, under an id that flew: the black box knows ids only.
            if one.suspect and digest(one.rid) in in_flight:
                suspects.append(one.rid)
        for rid in self.quarantine.died(suspects, list(self._sides), len(in_flight) - len(suspects)):
            self.poisoned += 1
            self._sides[rid].give_up(rid)
        self._release()

    def wait(self, side: Side, rid: str) -> None:
        """A new request, which came while others are examined."""
        if self._sides.setdefault(rid, side) is not side:
            side.refuse(rid)
            return
        self.quarantine.wait(rid)
        self._release()  # where that has ended meanwhile

    def cleared(self, side: Side, rid: str) -> None:
        """A request got on, or ended."""
        if self._sides.get(rid) is side and self.quarantine.cleared(rid):
            self._release()

    def gone(self, side: Side, rid: str) -> None:
        """A request's client has left."""
        if self._sides.get(rid) is side:
            del self._sides[rid]
            if self.quarantine.gone(rid):
                self._release()

    def left(self, side: Side) -> None:
        """A whole process is gone."""
        for rid in [rid for rid, other in self._sides.items() if other is side]:
            self.gone(side, rid)

    def _release(self) -> None:
        if self.held:
            return
        groups: dict[Side, list[str]] = {}
        for rid in self.quarantine.release():
            groups.setdefault(self._sides[rid], []).append(rid)
        for side, rids in groups.items():
            self.replayed += len(rids)
            side.again(rids)
        if not self.active:
            self._sides.clear()
