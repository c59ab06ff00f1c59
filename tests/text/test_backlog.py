"""Backlog: nothing is lost or reordered, however slow its reader is, and what waits is bounded."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglcore.request import FinishReason, HiddenStates, RequestOutput, TokenLogprobs
from sglcore.text.backlog import LIMIT, Backlog, joined

pytestmark = pytest.mark.asyncio


def out(token: int, branch: int = 0, **fields: object) -> RequestOutput:
    return RequestOutput("r", branch, [token], **{"prompt_tokens": 3, **fields})  # type: ignore[arg-type]


@given(
    outputs=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=300),
    takes=st.lists(st.integers(1, 120), max_size=10),
)
async def test_any_pace_gives_the_same_tokens_in_order(outputs: list[tuple[int, bool, bool]], takes: list[int]) -> None:
    backlog, got, want = Backlog(), {}, {}
    pauses = set(takes)
    for i, (branch, scored, deep) in enumerate(outputs):
        made = out(
            i,
            branch,
            logprobs=[TokenLogprobs(-1.0, i)] if scored else None,
            hidden_states=HiddenStates(1, bytes(4)) if deep else None,
            queue_time=1.5,
        )
        want.setdefault(branch, []).append((i, scored, deep))
        backlog.put(made)
        if i in pauses:
            _gather(got, await backlog.take())
    if len(backlog):
        _gather(got, await backlog.take())
    assert {b: [t for t, _, _ in rows] for b, rows in want.items()} == {b: ids for b, (ids, _, _) in got.items()}
    for branch, rows in want.items():
        assert got[branch][1] == [i for i, scored, _ in rows if scored]
        assert got[branch][2] == sum(deep for _, _, deep in rows)


def _gather(got: dict[int, tuple[list[int], list[int], int]], outputs: list[RequestOutput]) -> None:
    for one in outputs:
        ids, scored, deep = got.get(one.branch, ([], [], 0))
        assert one.prompt_tokens == 3 and one.queue_time == 1.5
        more = [logprob.token_id for logprob in one.logprobs or []]
        got[one.branch] = ([*ids, *one.token_ids], [*scored, *more], deep + (one.hidden_states is not None))


async def test_what_waits_is_one_output_a_branch_and_its_counts_are_the_latest() -> None:
    backlog = Backlog()
    for i in range(10_000):
        backlog.put(out(i, i % 2, cached_tokens=1 if i < 2 else 0, retractions=i))
        assert len(backlog) <= LIMIT + 1
    backlog.put(out(-1, 0, finish=FinishReason("length")))
    first, second = sorted(joined(await backlog.take()), key=lambda one: one.branch)
    assert len(first.token_ids) == 5001 and first.finish is not None and first.cached_tokens == 1
    assert second.token_ids == list(range(1, 10_000, 2)) and second.finish is None and second.retractions == 9999


async def test_tokens_before_an_error_are_given_before_it() -> None:
    backlog = Backlog()
    for i in range(3):
        backlog.put(out(i))
    backlog.put(RequestOutput("r", 0, [], FinishReason("error", message="gone")))
    assert [one.token_ids for one in await backlog.take()] == [[0], [1], [2]]
    (error,) = await backlog.take()
    assert error.finish is not None and error.finish.type == "error"


async def test_an_error_is_never_joined_to_what_it_follows() -> None:
    failed = RequestOutput("r", 0, [], FinishReason("error", message="gone"))
    assert joined([out(1), out(2), failed]) == [RequestOutput("r", 0, [1, 2], prompt_tokens=3), failed]


async def test_a_closed_one_gives_what_is_left_and_then_nothing() -> None:
    backlog = Backlog()
    waiting = asyncio.create_task(backlog.take())
    await asyncio.sleep(0)
    backlog.put(out(1))
    assert [one.token_ids for one in await asyncio.wait_for(waiting, 5)] == [[1]]
    backlog.put(out(2))
    backlog.close()
    assert [one.token_ids for one in await backlog.take()] == [[2]]
    assert await backlog.take() == [] and await backlog.take() == []


async def test_a_reader_that_left_does_not_keep_the_next_from_waiting() -> None:
    backlog = Backlog()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(backlog.take(), 0.01)
    backlog.put(out(1))
    assert [one.token_ids for one in await backlog.take()] == [[1]]
