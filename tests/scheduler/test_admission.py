"""At the door: bounds of the queue, Retry-After, deadlines."""

from __future__ import annotations

import pytest

from scheduler.driving import Clock, Drive, ask
from scheduler.fake import build, run_alone
from sglcore.errors import RequestError


def refused(scheduler, request) -> RequestError:
    with pytest.raises(RequestError) as error:
        scheduler.add(request)
    return error.value


def test_queued_tokens_are_bounded_but_one_request_may_always_wait():
    scheduler, runner = build(rows=1, queued_tokens=20)
    drive = Drive(scheduler, runner)
    scheduler.add(ask("running", [1], 30))
    drive.step()
    scheduler.add(ask("long", [2] * 30, 1))  # alone in the queue
    error = refused(scheduler, ask("more", [3], 1))
    assert (
        error.status == 429 and error.code == "queue_full" and "30 prompt tokens" in str(error) and "20" in str(error)
    )
    scheduler.abort("long")
    for i in range(4):
        scheduler.add(ask(f"r{i}", [i] * 5, 1))
    assert scheduler.queue.tokens == 20
    assert refused(scheduler, ask("r4", [1], 1)).status == 429
    drive.finish()
    assert scheduler.queue.tokens == 0


def test_the_prompt_of_many_answers_is_counted_once():
    scheduler, _ = build(rows=1, queued_tokens=64)
    scheduler.add(ask("a", list(range(30)), 1, n=4))
    assert scheduler.queue.tokens == 33
    scheduler.abort("a")
    assert scheduler.queue.tokens == 0


def test_retry_after_follows_the_pace_of_the_queue():
    clock = Clock()
    scheduler, runner = build(rows=1, queued=8, clock=clock)
    for i in range(9):
        scheduler.add(ask(f"r{i}", [i], 1))
    assert refused(scheduler, ask("x", [1], 1)).retry_after == 1  # nothing is known yet
    drive = Drive(scheduler, runner)
    for i in range(9, 17):
        drive.step()
        clock.now += 2.0
        scheduler.add(ask(f"r{i}", [i], 1))
    error = refused(scheduler, ask("x", [1], 1))
    assert len(scheduler.queue) == 9 and 7 <= error.retry_after <= 11  # half of the queue at two seconds each
    clock.now += 10_000
    assert refused(scheduler, ask("x", [1], 1)).retry_after == 60


@pytest.mark.parametrize("depth", [1, 2])
def test_deadlines_free_pages_of_those_that_wait_prefill_and_decode(depth):
    clock = Clock()
    scheduler, runner = build(rows=2, clock=clock, chunk=4, context=64, pages=200)
    drive = Drive(scheduler, runner, depth)
    scheduler.add(ask("decoding", [1, 2], 40, timeout=5.0))
    drive.step(3)
    scheduler.add(ask("prefilling", [(3 * i) % 50 for i in range(30)], 5, timeout=4.0))
    scheduler.add(ask("waiting", [4], 5, timeout=3.0))
    scheduler.add(ask("patient", [5], 5))
    drive.step(2)
    clock.now += 3.0
    drive.step(1)
    assert drive.ends("waiting") == ["error"] and drive.ends("decoding") == []
    clock.now += 1.5
    drive.step(depth)
    assert drive.ends("prefilling") == ["abort"]
    clock.now += 1.0
    drive.step(depth)
    assert drive.ends("decoding") == ["abort"]
    drive.finish()
    assert drive.tokens("patient") == run_alone([5], 5) and drive.ends("patient") == ["length"]
    decoded = drive.tokens("decoding")
    assert 0 < len(decoded) < 40 and decoded == run_alone([1, 2], len(decoded))
    late = {o.rid: o.finish for o in drive.outputs if o.finish and o.finish.code == "timeout"}
    assert {rid: f.status for rid, f in late.items()} == dict.fromkeys(("waiting", "prefilling", "decoding"), 504)
    assert scheduler.counts["timeouts"] == 3


def test_a_default_deadline_holds_where_a_request_names_none():
    clock = Clock()
    scheduler, runner = build(clock=clock, timeout=2.0)
    drive = Drive(scheduler, runner)
    scheduler.add(ask("default", [1], 50))
    scheduler.add(ask("own", [2], 10, timeout=99.0))
    scheduler.add(ask("quick", [3], 1))
    drive.step()
    clock.now += 2.5
    drive.finish()
    assert drive.ends("quick") == ["length"] and scheduler.counts["timeouts"] == 1
    assert drive.ends("default") == ["abort"] and drive.ends("own") == ["length"]


def test_deadlines_of_ended_requests_do_not_pile_up():
    scheduler, runner = build(timeout=1000.0)
    drive = Drive(scheduler, runner)
    for i in range(400):
        scheduler.add(ask(f"r{i}", [i % 50], 1))
        drive.step()
    drive.finish()
    assert len(scheduler.deadlines._heap) <= 80


def test_a_deadline_passes_while_the_engine_is_paused():
    clock = Clock()
    scheduler, runner = build(clock=clock)
    drive = Drive(scheduler, runner)
    scheduler.pause("in_place")
    scheduler.add(ask("a", [1], 5, timeout=1.0))
    assert not scheduler.has_work
    clock.now += 1.0
    assert scheduler.has_work
    drive.step()
    assert drive.ends("a") == ["error"] and not scheduler.has_work
