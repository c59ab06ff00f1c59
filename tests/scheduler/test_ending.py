"""Cancellation at every point of a request's life; pausing; flushing while requests run."""

from __future__ import annotations

import pytest

from scheduler.driving import Drive, ask
from scheduler.fake import build, run_alone
from sglcore.errors import RequestError

LONG = [(3 * i) % 50 for i in range(20)]


def idle(scheduler) -> tuple:
    """What must be as before once all is over."""
    return (
        scheduler.rows.free_seats,
        scheduler.ledger.held(),
        len(scheduler.requests),
        len(scheduler.queue),
        scheduler.queue.tokens,
        [b for b in scheduler.seated if b is not None],
        [n.lock for n in scheduler.ledger.tree.nodes() if n.lock],
    )


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("at", range(14))
def test_an_abort_gives_everything_back_within_the_steps_in_flight(n, depth, page_size, at):
    """20 prompt tokens by chunks of 6, then 6 tokens: 14 steps meet every state there is."""
    scheduler, runner = build(rows=4, chunk=6, page_size=page_size, pages=256 // page_size)
    before = idle(scheduler)
    drive = Drive(scheduler, runner, depth)
    scheduler.add(ask("neighbour", [1, 2, 3], 30))
    scheduler.add(ask("a", LONG, 6, n=n))
    drive.step(at)
    ended = "a" not in scheduler.requests
    assert scheduler.abort("a") == (not ended)
    assert scheduler.abort("a") == 0
    drive.step(depth)
    assert [b.rid for b in scheduler.seated if b] == ["neighbour"]
    own = scheduler.ledger.held()[0] + scheduler.ledger.n_tree.sum()
    assert own <= scheduler.ledger.pages_for(3 + 30)
    drive.finish()
    assert idle(scheduler) == before
    assert drive.tokens("neighbour") == run_alone([1, 2, 3], 30)
    for branch in range(n):
        finals = [o.finish.type for o in drive.outputs if o.rid == "a" and o.branch == branch and o.finish]
        assert len(finals) == 1
        got = drive.tokens("a", branch)
        assert got == run_alone(LONG, 6)[: len(got)]


@pytest.mark.parametrize("depth", [1, 2])
def test_an_id_may_be_used_again_while_its_first_owner_is_in_flight(depth):
    scheduler, runner = build()
    drive = Drive(scheduler, runner, depth)
    scheduler.add(ask("a", [1, 2], 30, epoch=1))
    drive.step(4)
    with pytest.raises(RequestError) as error:
        scheduler.add(ask("a", [3], 4, epoch=2))
    assert error.value.code == "duplicate_rid" and error.value.status == 400
    scheduler.abort("a", message="No more.")
    scheduler.add(ask("a", [3], 4, epoch=2))
    drive.finish()
    assert [o.finish.message for o in drive.outputs if o.finish and o.epoch == 1] == ["No more."]
    assert [t for o in drive.outputs if o.epoch == 2 for t in o.token_ids] == run_alone([3], 4)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("at", [0, 2, 6])
def test_one_branch_may_end_while_the_others_go_on(depth, at):
    scheduler, runner = build()
    drive = Drive(scheduler, runner, depth)
    scheduler.add(ask("a", LONG, 12, n=3))
    drive.step(at)
    scheduler.abort("a", branch=1)
    scheduler.abort("a", branch=1)
    drive.step(depth + 1)
    assert sum(b is not None and b.index == 1 for b in scheduler.seated) == 0
    drive.finish()
    ends = [(o.branch, o.finish.type) for o in drive.outputs if o.finish]
    assert sorted(ends) == [(0, "length"), (1, "abort"), (2, "length")]
    assert drive.tokens("a", 0) == drive.tokens("a", 2) == run_alone(LONG, 12)
    assert len(drive.tokens("a", 1)) <= at


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("mode", ["abort", "retract", "in_place"])
def test_pausing(depth, mode):
    scheduler, runner = build(rows=2, chunk=8)
    drive = Drive(scheduler, runner, depth)
    for i in range(3):
        scheduler.add(ask(f"r{i}", [i, *LONG], 10))
    drive.step(6)
    scheduler.pause(mode)
    scheduler.pause(mode)
    drive.step(3)
    assert not drive.flight
    held = scheduler.ledger.held()[0] + int(scheduler.ledger.n_tree.sum())
    assert scheduler.seats.occupied == (2 if mode == "in_place" else 0) and (held > 0) == (mode == "in_place")
    assert len(scheduler.requests) == (0 if mode == "abort" else 3)
    if mode == "in_place":
        with pytest.raises(RequestError, match="2 rows hold pages") as error:
            scheduler.flush()
        assert error.value.code == "busy"
    else:
        scheduler.flush()
        assert scheduler.ledger.tree.cached[0] == 0
    scheduler.add(ask("later", [9], 3))
    computed = runner.computed_tokens
    drive.step(5)
    assert runner.computed_tokens == computed and not scheduler.has_work and not drive.tokens("later")
    assert scheduler.abort("r2") == (mode != "abort")
    scheduler.resume()
    drive.finish()
    assert drive.tokens("later") == run_alone([9], 3)
    for i in range(2):
        got = drive.tokens(f"r{i}")
        assert got == run_alone([i, *LONG], 10)[: len(got) if mode == "abort" else None]
        assert drive.ends(f"r{i}") == ["abort" if mode == "abort" else "length"]


def test_flushing_is_refused_while_requests_run_or_wait_and_says_how_many():
    scheduler, runner = build(rows=1)
    drive = Drive(scheduler, runner)
    scheduler.add(ask("a", LONG, 5))
    scheduler.add(ask("b", LONG, 5))
    drive.step()
    with pytest.raises(RequestError, match="while 2 requests run or wait \\(1 rows hold pages\\)"):
        scheduler.flush()
    drive.finish()
    scheduler.flush()
    assert scheduler.ledger.tree.cached[0] == 0


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cache", [True, False])
def test_branches_share_the_full_pages_of_their_prompt_and_compute_the_rest(page_size, depth, cache):
    """Committed full pages are shared; of the partial page, or at least the last token, each computes its own."""
    prompt, n, new = [(7 * i) % 50 for i in range(41)], 4, 5
    scheduler, runner = build(rows=4, page_size=page_size, pages=640 // page_size, chunk=512, cache=cache)
    drive = Drive(scheduler, runner, depth)
    scheduler.add(ask("a", prompt, new, n=n))
    drive.finish()
    for branch in range(n):
        assert drive.tokens("a", branch) == run_alone(prompt, new)
    shared = (len(prompt) - 1) // page_size * page_size if cache else 0
    assert runner.computed_tokens == len(prompt) + (n - 1) * (len(prompt) - shared) + n * (new - 1)


def test_branches_of_a_short_prompt_share_it_too():
    scheduler, runner = build(chunk=512)
    drive = Drive(scheduler, runner)
    scheduler.add(ask("a", [1, 2, 3, 4, 5], 1, n=4))
    drive.finish()
    assert runner.computed_tokens == 5 + 3


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("at", [1, 3, 5, 8])
@pytest.mark.parametrize("page_size", [1, 4])
def test_a_forced_retraction_resumes_exactly(depth, at, page_size):
    scheduler, runner = build(rows=3, chunk=8, page_size=page_size, pages=256 // page_size)
    drive = Drive(scheduler, runner, depth)
    for i in range(3):
        scheduler.add(ask(f"r{i}", [i, *LONG], 12))
    for step in range(40):
        if step and step % at == 0 and scheduler.rows.active.any():
            scheduler.seats.retract(int(scheduler.rows.active.argmax()))
        drive.step()
    drive.finish()
    for i in range(3):
        assert drive.tokens(f"r{i}") == run_alone([i, *LONG], 12)
    assert max(o.retractions for o in drive.outputs) > 0
