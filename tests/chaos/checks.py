"""What must always hold, and what must hold when everything has ended."""

from __future__ import annotations

import numpy as np

from chaos.device import Device
from sglcore.engine.client import ZmqClient
from sglcore.engine.loop import EngineLoop
from sglcore.scheduler import Scheduler


def check_books(scheduler: Scheduler, device: Device) -> None:
    """Pages, rows, queue and sessions, after every step."""
    ledger, table, queue = scheduler.ledger, scheduler.rows, scheduler.queue
    ledger.check()
    seated = [branch for branch in scheduler.seated if branch is not None]
    rows = [branch.row for branch in seated]
    assert len(rows) == len(set(rows)) == table.size - table.free_seats, "two branches in a row, or a row lost"
    assert all(scheduler.seated[branch.row] is branch for branch in seated), "a branch elsewhere than it says"
    for branch in seated:
        _check_namespace(scheduler, branch.row, branch.namespace)
    waiting = queue.branches
    assert len(set(map(id, waiting + seated))) == len(waiting) + len(seated), "a branch waits and sits"
    assert all(branch.finish is None and branch.row < 0 for branch in waiting)
    assert [b.arrival for b in waiting] == sorted(b.arrival for b in waiting), "the queue is out of order"
    assert queue.tokens == sum(map(queue._cost, waiting)), "the queue's tokens are not those that wait"
    assert len(queue._passers) <= queue.overtakes, "one was passed more often than may be"
    sessions = scheduler.sessions
    assert sessions.tokens == sum(e.cost for s in sessions.open.values() for e in s.entries.values())
    _check_flights(scheduler, device)


def _check_namespace(scheduler: Scheduler, row: int, namespace: str) -> None:
    node = scheduler.ledger.node[row]
    while node is not None and node.parent is not None:
        node = node.parent
    assert node is None or node.namespace == namespace, "a prefix of another namespace"  # type: ignore[attr-defined]


def _check_flights(scheduler: Scheduler, device: Device) -> None:
    """What is in flight keeps its rows and pages."""
    flying = np.zeros(scheduler.rows.size, dtype=np.int32)
    for flight in device.flights:
        flying[list(flight.rows)] += 1
        for allocator, pages in zip(scheduler.ledger.allocators, flight.pages, strict=True):
            assert allocator.out(pages).all(), "a page was freed under a step in flight"
    assert (flying == scheduler.rows.in_flight).all() or not device.flights, "steps in flight are miscounted"
    for row in np.flatnonzero(flying).tolist():
        assert scheduler.seated[row] is not None, "a seat was given up under a step in flight"


def check_lives(loop: EngineLoop, client: ZmqClient) -> None:
    """While no message is on its way: engine and client know of the same requests."""
    scheduler = loop.engine.scheduler
    inside = {rid: request.asked.epoch for rid, request in scheduler.requests.items()}
    quarantine = client._recovery.quarantine
    waiting = {rid for group in quarantine._groups for rid in group} | set(quarantine._rest)
    outside = {rid: s.record.epoch for rid, s in client._streams.items() if rid not in waiting}
    if not scheduler.lives.outbox:
        assert inside == outside, f"the engine has {inside}, the client {outside}"
        assert set(loop.owner) == set(loop._branches) == set(inside), "requests and their owners differ"
    for rid, request in scheduler.requests.items():
        assert any(branch.finish is None for branch in request.branches), f"{rid} is open with no branch that is"


def check_idle(loop: EngineLoop, client: ZmqClient, device: Device) -> None:
    """As if nothing had been."""
    scheduler = loop.engine.scheduler
    ledger = scheduler.ledger
    assert not scheduler.requests and not scheduler.has_work and not loop.engine.has_work
    assert not len(scheduler.queue) and not scheduler.queue.tokens and not scheduler.queue._passers
    assert not any(ledger.held()) and not scheduler.seats.occupied and not device.flights
    assert not scheduler.rows.in_flight.any() and not scheduler.sessions._running
    assert not client._streams and not client._replies and not client._recovery.quarantine.active
    assert not loop.owner and not loop._branches
    scheduler.flush()
    ledger.check()
    assert all(a.free == a.total for a in ledger.allocators), "pages are left behind"
    assert not ledger.tree._roots and not (ledger.quota and len(ledger.quota))
