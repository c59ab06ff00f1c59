"""Sessions: continue, branch off, replace, cut; bounds and expiry."""

from __future__ import annotations

import pytest

from scheduler.driving import Clock, Drive, ask
from scheduler.fake import build, run_alone
from sglcore.errors import RequestError
from sglcore.scheduler import SessionLimits


class Talk:
    """One session, driven turn by turn."""

    def __init__(self, depth: int = 1, **limits) -> None:
        self.clock = Clock()
        self.scheduler, self.runner = build(
            clock=self.clock, context=128, pages=400, sessions=SessionLimits(**limits), page_size=1
        )
        self.sessions = self.scheduler.sessions
        self.sessions.start("s", 0, self.clock())
        self.drive = Drive(self.scheduler, self.runner, depth)

    def begin(self, name: str, prompt: list[int], new: int = 4, /, **how) -> None:
        """`how` are fields of SessionParams."""
        self.scheduler.add(ask(name, prompt, new, session={"id": "s", **how}))

    def turn(self, name: str, prompt: list[int], new: int = 4, /, **how) -> list[int]:
        self.begin(name, prompt, new, **how)
        self.drive.finish()
        return self.drive.tokens(name)

    def refused(self, name: str, prompt: list[int], /, **how) -> RequestError:
        with pytest.raises(RequestError) as error:
            self.begin(name, prompt, **how)
        return error.value


@pytest.mark.parametrize("depth", [1, 2])
def test_a_turn_continues_prompt_and_output_and_reads_them_from_the_cache(depth):
    talk = Talk(depth)
    first = talk.turn("1", [1, 2, 3])
    whole = [1, 2, 3, *first, 9, 8]
    assert talk.turn("2", [9, 8], rid="1") == run_alone(whole, 4)
    (entry,) = [o for o in talk.drive.outputs if o.rid == "2" and o.finish]
    assert entry.prompt_tokens == len(whole) and entry.cached_tokens >= 3 + len(first) - 1


def test_several_turns_may_branch_off_the_same_one():
    talk = Talk()
    stem = [1, 2, 3, *talk.turn("1", [1, 2, 3])]
    for rid, tail in (("a", [5]), ("b", [6, 7])):
        talk.begin(rid, tail, rid="1")
    talk.drive.finish()
    assert talk.drive.tokens("a") == run_alone([*stem, 5], 4)
    assert talk.drive.tokens("b") == run_alone([*stem, 6, 7], 4)
    assert talk.turn("c", [4], rid="a") == run_alone([*stem, 5, *talk.drive.tokens("a"), 4], 4)


def test_offset_and_dropped_output():
    talk = Talk()
    first = talk.turn("1", [1, 2, 3])
    assert talk.turn("cut", [9], rid="1", offset=5) == run_alone([1, 2, 3, *first[:2], 9], 4)
    assert talk.turn("cut from the end", [9], rid="1", offset=-1) == run_alone([1, 2, 3, *first[:-1], 9], 4)
    assert talk.turn("dropped", [9], rid="1", drop_previous_output=True) == run_alone([1, 2, 3, 9], 4)
    assert talk.turn("both", [9], rid="1", drop_previous_output=True, offset=2) == run_alone([1, 2, 9], 4)
    assert talk.turn("fresh", [9]) == run_alone([9], 4)
    assert talk.refused("far", [9], rid="1", offset=8).param == "session_params.offset"


def test_replacing_forgets_and_ends_what_continued():
    talk = Talk()
    first = talk.turn("1", [1, 2, 3])
    talk.turn("2", [4], rid="1")
    talk.begin("3", [5], 40, rid="2")
    talk.drive.step(2)
    talk.begin("2b", [6], rid="1", replace=True)
    assert talk.refused("x", [1], rid="2").code == "session_request_not_found"
    talk.drive.finish()
    assert talk.drive.ends("3") == ["abort"]
    assert talk.drive.tokens("2b") == run_alone([1, 2, 3, *first, 6], 4)
    assert set(talk.sessions.open["s"].entries) == {"1", "2b"}
    assert talk.turn("new", [7], replace=True) == run_alone([7], 4)
    assert set(talk.sessions.open["s"].entries) == {"new"}


@pytest.mark.parametrize("depth", [1, 2])
def test_replacing_a_running_one_goes_on_from_where_it_is(depth):
    talk = Talk(depth)
    talk.begin("1", [1, 2, 3], 50)
    talk.drive.step(5)
    assert talk.refused("x", [1], rid="1").code == "session_request_running"
    talk.begin("2", [7], rid="1", replace=True)
    so_far = talk.drive.tokens("1")
    talk.drive.finish()
    assert talk.drive.ends("1") == ["abort"] and so_far == talk.drive.tokens("1") != []
    assert talk.drive.tokens("2") == run_alone([1, 2, 3, *so_far, 7], 4)


def test_an_aborted_turn_may_be_continued_and_counts_as_far_as_its_client_read():
    talk = Talk()
    talk.begin("1", [1, 2, 3], 50)
    talk.drive.step(6)
    got = talk.drive.tokens("1")
    talk.scheduler.abort("1", kept=len(got) - 2)
    assert talk.turn("2", [7], rid="1") == run_alone([1, 2, 3, *got[:-2], 7], 4)
    second = talk.turn("3", [8], rid="1")
    talk.sessions.trim("3", 1)  # its stop string was seen when it had ended already
    whole = [1, 2, 3, *got[:-2], 8, second[0], 5]
    assert talk.turn("4", [5], rid="3") == run_alone(whole, 4)


def test_refusals():
    talk = Talk()
    assert talk.refused("a", [1], id="other").code == "session_not_found"
    assert talk.refused("a", [1], rid="nobody").code == "session_request_not_found"
    with pytest.raises(RequestError) as error:
        talk.scheduler.add(ask("a", [1], n=2, session={"id": "s"}))
    assert error.value.param == "n"
    with pytest.raises(RequestError) as error:
        talk.sessions.start("s", 0, talk.clock())
    assert error.value.code == "session_exists"
    talk.turn("1", [1] * 60, 50)
    assert talk.refused("long", [2] * 30, rid="1").code == "context_length_exceeded"
    assert set(talk.sessions.open["s"].entries) == {"1"}  # what was refused left nothing
    talk.sessions.end("s", talk.clock())
    assert talk.refused("a", [1]).code == "session_not_found"


def test_a_capacity_bounds_the_prompt():
    talk = Talk()
    talk.sessions.start("small", 10, talk.clock())
    talk.turn("1", [1] * 5, 4, id="small")
    error = talk.refused("2", [2] * 3, id="small", rid="1")
    assert error.code == "session_full" and "12 prompt tokens" in str(error)


def test_sessions_are_bounded_and_expire_but_not_while_one_of_their_requests_runs():
    talk = Talk(count=2, timeout=10.0, tokens=400)
    talk.sessions.start("t", 0, talk.clock())
    with pytest.raises(RequestError) as error:
        talk.sessions.start("u", 0, talk.clock())
    assert error.value.status == 429
    talk.begin("1", [1, 2], 30)
    talk.drive.step(2)
    talk.clock.now += 10.0
    talk.sessions.start("u", 0, talk.clock())  # t has expired, s runs
    assert set(talk.sessions.open) == {"s", "u"}
    talk.drive.finish()
    assert talk.sessions.tokens == 64 + 2 + 30
    talk.turn("2", [1] * 20)
    talk.turn("3", [1] * 20)
    error = talk.refused("4", [1] * 90)
    assert error.code == "sessions_full" and error.status == 429
    talk.clock.now += 10.0
    talk.sessions.expire(talk.clock())
    assert talk.sessions.tokens == 0 and not talk.sessions.open and not talk.sessions._latest


def test_closing_leaves_what_runs_alone():
    talk = Talk()
    talk.begin("1", [1, 2], 6)
    talk.drive.step(2)
    talk.sessions.end("s", talk.clock())
    talk.drive.finish()
    assert talk.drive.tokens("1") == run_alone([1, 2], 6)
    assert talk.sessions.tokens == 0 and not talk.sessions._running


def test_an_id_used_again_in_a_session_takes_the_place_of_the_first():
    talk = Talk()
    first = talk.turn("1", [1])
    again = talk.turn("1", [2], rid="1")
    assert again[len(first) :] == run_alone([1, *first, 2], 4)
    assert talk.turn("2", [3], rid="1") == run_alone([1, *first, 2, *again[len(first) :], 3], 4)
    assert talk.sessions.tokens == sum(e.cost for e in talk.sessions.open["s"].entries.values())
