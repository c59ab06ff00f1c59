"""Priorities: order, seats taken from lower ones, exact resumption, ageing."""

from __future__ import annotations

import pytest

from scheduler.driving import Clock, Drive, ask
from scheduler.fake import build, run_alone
from sglcore.builtin.policies import ByPriority, LongestPrefixMatch
from sglcore.errors import RequestError
from sglcore.scheduler import PriorityRules

ON = PriorityRules(enabled=True)


def order(*requests, **kw) -> list[str]:
    """Who is seated first, one at a time."""
    scheduler, runner = build(rows=1, **kw)
    for request in requests:
        scheduler.add(request)
    drive = Drive(scheduler, runner)
    drive.finish()
    return drive.seated


@pytest.mark.parametrize("policy", [None, LongestPrefixMatch()])
def test_the_higher_priority_goes_first_whatever_the_policy(policy):
    asked = [ask("low", [1], 2, priority=1), ask("high", [2], 2, priority=5), ask("none", [3], 2)]
    assert order(*asked, priority=ON, policy=policy) == ["high", "low", "none"]
    assert order(*asked, policy=policy) == ["low", "high", "none"]


def test_the_policy_of_that_name_orders_without_taking_seats():
    asked = [ask("low", [1], 2, priority=1), ask("high", [2], 2, priority=50)]
    assert order(*asked, policy=ByPriority()) == ["high", "low"]
    scheduler, runner = build(rows=1, policy=ByPriority())
    drive = Drive(scheduler, runner)
    scheduler.add(asked[0])
    drive.step()
    scheduler.add(asked[1])
    drive.finish()
    assert drive.seated == ["low", "high"]


def test_low_values_first_and_a_default():
    rules = PriorityRules(enabled=True, low_first=True, default=3)
    asked = [ask("five", [1], 2, priority=5), ask("none", [2], 2), ask("one", [3], 2, priority=1)]
    assert order(*asked, priority=rules) == ["one", "none", "five"]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("ahead", [9, 10])
def test_a_seat_is_taken_at_the_threshold_and_the_loser_resumes_exactly(depth, page_size, ahead):
    scheduler, runner = build(rows=2, priority=ON, page_size=page_size, context=64, pages=128 // page_size)
    drive = Drive(scheduler, runner, depth)
    scheduler.add(ask("a", [1, 2, 3], 20, priority=0))
    scheduler.add(ask("b", [4, 5], 20, priority=1))
    drive.step(6)
    scheduler.add(ask("vip", [6, 7, 8], 4, priority=ahead))
    drive.finish()
    # the lowest gives way: a, by 9 or 10; b would be only 8 or 9 behind
    assert drive.seated == (["b", "a", "vip"] if ahead == 9 else ["b", "a", "vip", "a"])
    assert scheduler.counts["preemptions"] == (ahead == 10)
    for rid, prompt, new in (("a", [1, 2, 3], 20), ("b", [4, 5], 20), ("vip", [6, 7, 8], 4)):
        assert drive.tokens(rid) == run_alone(prompt, new)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_more_seats_are_taken_than_are_needed(depth):
    scheduler, runner = build(rows=3, priority=ON)
    drive = Drive(scheduler, runner, depth)
    for i in range(3):
        scheduler.add(ask(f"low{i}", [i, 7], 20, priority=0))
    drive.step(4)
    scheduler.add(ask("vip", [9], 6, priority=50))
    drive.step(4)
    assert scheduler.counts["preemptions"] == 1 and scheduler.running == 3
    drive.finish()
    assert all(drive.tokens(f"low{i}") == run_alone([i, 7], 20) for i in range(3))


@pytest.mark.parametrize("depth", [1, 2])
def test_pages_are_taken_too_but_none_in_vain(depth):
    scheduler, runner = build(rows=4, pages=40, context=40, priority=ON, cache=False)
    drive = Drive(scheduler, runner, depth)
    for i in range(3):
        scheduler.add(ask(f"low{i}", [i * 9 + j for j in range(8)], 4, priority=0))
    scheduler.add(ask("kept", [41, 42, 43, 44, 45, 46, 47], 4, priority=95))
    drive.step(2)
    # 31 of 40 pages are held; the three low ones have 24 of them
    scheduler.add(ask("vip", [(7 * i) % 50 for i in range(30)], 2, priority=100))
    drive.step(4)
    assert "vip" in drive.seated and scheduler.counts["preemptions"] >= 2
    drive.finish()
    assert drive.tokens("vip") == run_alone([(7 * i) % 50 for i in range(30)], 2)
    assert drive.seated.count("kept") == 1
    scheduler, runner = build(rows=4, pages=40, context=40, priority=ON, cache=False)
    drive = Drive(scheduler, runner, depth)
    scheduler.add(ask("low", [1, 2, 3], 30, priority=0))
    scheduler.add(ask("kept", list(range(20)), 15, priority=99))
    drive.step(3)
    scheduler.add(ask("vip", [(7 * i) % 50 for i in range(30)], 2, priority=100))
    drive.step(3)  # low's pages would not be enough
    assert scheduler.counts["preemptions"] == 0


def test_ageing_lets_an_old_request_before_a_later_one_of_higher_priority():
    clock = Clock()
    rules = PriorityRules(enabled=True, ageing=2.0, threshold=100)
    scheduler, runner = build(rows=1, priority=rules, clock=clock)
    drive = Drive(scheduler, runner)
    scheduler.add(ask("running", [1], 6, priority=0))
    drive.step()
    scheduler.add(ask("old", [2], 2, priority=0))
    clock.now += 7.0  # three and a half steps
    scheduler.add(ask("three", [3], 2, priority=3))
    scheduler.add(ask("four", [4], 2, priority=4))
    drive.finish()
    assert drive.seated == ["running", "four", "old", "three"]


def test_a_priority_nobody_reads_is_refused_where_the_server_was_told_to():
    scheduler, _ = build(priority=PriorityRules(refuse=True))
    scheduler.add(ask("a", [1], 1))
    with pytest.raises(RequestError, match="priority") as error:
        scheduler.add(ask("b", [1], 1, priority=3))
    assert error.value.param == "priority" and error.value.status == 400


def test_in_a_full_queue_the_lowest_that_never_ran_makes_room():
    scheduler, runner = build(rows=1, queued=2, priority=ON)
    drive = Drive(scheduler, runner)
    scheduler.add(ask("running", [1], 9, priority=50))
    drive.step()
    scheduler.add(ask("low", [2], 2, priority=1))
    scheduler.add(ask("mid", [3], 2, priority=2))
    with pytest.raises(RequestError) as error:
        scheduler.add(ask("equal", [4], 2, priority=1))
    assert error.value.status == 429
    scheduler.add(ask("high", [5], 2, priority=3))
    drive.finish()
    (displaced,) = [o for o in drive.outputs if o.rid == "low"]
    assert (displaced.finish.status, displaced.finish.code) == (503, "displaced")
    assert drive.seated == ["running", "high", "mid"]
