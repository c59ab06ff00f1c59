"""Whom a death makes suspect, in which order requests run again, and from where they go on."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglcore.batch import Batch, RowEntry
from sglcore.engine.blackbox import BlackBox, digest, in_flight
from sglcore.engine.journal import Journal
from sglcore.engine.replay import CLEARED, Quarantine, Record
from sglcore.request import (
    FinishReason,
    GenerateRequest,
    Request,
    RequestOutput,
    SamplingParams,
    SessionParams,
    TokenLogprobs,
    pack_ids,
)


def ask(n: int = 1, **options) -> GenerateRequest:
    return GenerateRequest(rid="r", input_ids=pack_ids([1, 2, 3]), n=n, **options)


def test_a_record_asks_again_from_where_the_client_stands():
    record = Record(ask(n=3), 1)
    record.take(RequestOutput("r", 0, [7, 8]))
    record.take(RequestOutput("r", 1, [9], FinishReason("stop", 9)))
    again = record.again(5)
    assert again.epoch == record.epoch == 5
    request = Request(again, seed=0)
    assert [b.tokens.tolist() for b in request.branches] == [[1, 2, 3, 7, 8], [1, 2, 3], [1, 2, 3]]
    assert [b.finish is not None for b in request.branches] == [False, True, False]
    assert [b.cached for b in request.branches] == [0, -1, -1]
    assert request.prompt_tokens == 3


def test_a_record_of_nothing_delivered_begins_at_the_prompt():
    again = Record(ask(), 1).again(2)
    assert again.resume is not None, "the engine must know that it was admitted before"
    (branch,) = Request(again, seed=0).branches
    assert branch.tokens.tolist() == [1, 2, 3] and branch.cached == -1


@pytest.mark.parametrize("start, told, owed", [(0, 0, 1), (0, 1, 1), (0, 3, 3), (2, 1, 3), (1, 0, 1)])
def test_input_logprobs_go_on_behind_the_last_one_told(start: int, told: int, owed: int):
    record = Record(ask(return_logprob=True, logprob_start=start), 1)
    if told:
        record.take(RequestOutput("r", 0, [], input_logprobs=[TokenLogprobs(None, 1)] * told))
    assert Request(record.again(2), seed=0).branches[0].logprobs_from == owed


def test_first_all_suspects_then_halves_then_the_one():
    rids = [f"r{i}" for i in range(8)]
    quarantine = Quarantine()
    poison, deaths = "r5", 0
    flying, order = rids[:6], list(rids)
    gone: list[str] = []
    while not gone:
        gone = quarantine.died(flying, order)
        deaths += 1
        flying = []
        while not flying and not gone:
            group = quarantine.release()
            assert group and not set(group) & {"r6", "r7"}, "the others wait"
            if poison in group:
                flying = group
            for rid in group if poison not in group else ():
                quarantine.cleared(rid)
    assert gone == [poison]
    assert deaths == 4  # six, six again, three, one
    order.remove(poison)
    released: list[str] = []
    while group := quarantine.release():
        released += group
        for rid in group:
            quarantine.cleared(rid)
    assert released[-2:] == ["r6", "r7"] and not quarantine.active


@given(st.integers(1, 40), st.integers(0, 39), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_one_poison_is_found_and_everybody_else_runs(count: int, which: int, seed: int):
    """Whoever flies at each death, only the one that kills every time is given up, within log2 n + 3 deaths."""
    chance = random.Random(seed)
    rids = [str(i) for i in range(count)]
    poison = rids[which % count]
    quarantine = Quarantine()
    open_ = list(rids)
    flying = [rid for rid in rids if rid == poison or chance.random() < 0.7]
    deaths, running = 0, set(flying)
    while True:
        gone = quarantine.died(flying, open_)
        deaths += 1
        assert gone in ([], [poison])
        if gone:
            open_.remove(poison)
        running = set()
        died = False
        while not died and (group := quarantine.release()):
            running |= set(group)
            if poison in group and poison in open_:
                flying = [rid for rid in open_ if rid in running]
                died = True
            else:
                for rid in group:
                    quarantine.cleared(rid)
        if not died:
            break
    assert running == set(open_) and poison not in running
    assert deaths <= int(np.ceil(np.log2(count))) + 3


def test_nobody_is_given_up_in_company():
    """The poison gets far enough to be cleared; whoever was let in after it must not pay for it."""
    quarantine = Quarantine()
    assert quarantine.died(["poison", "other"], ["poison", "other"]) == []
    assert quarantine.release() == ["poison", "other"]
    assert quarantine.died(["poison", "other"], ["poison", "other"]) == []
    assert quarantine.release() == ["poison"]
    assert quarantine.cleared("poison")
    assert quarantine.release() == ["other"]
    assert quarantine.died(["poison", "other"], ["poison", "other"]) == []
    assert quarantine.release() == ["other"]
    assert quarantine.cleared("other")
    for gone in ([], ["poison"]):  # it was cleared: a first death alone may be chance
        assert quarantine.release() == ["poison"]
        assert quarantine.died(["poison"], ["poison"]) == gone


def test_a_client_that_leaves_holds_nobody_up():
    quarantine = Quarantine()
    quarantine.died(["a", "b"], ["a", "b", "c"])
    assert quarantine.release() == ["a", "b"]
    quarantine.wait("d")
    assert not quarantine.cleared("a")
    assert quarantine.gone("b")
    assert quarantine.release() == ["c", "d"]
    assert not quarantine.active


def test_nobody_is_given_up_for_one_that_has_left():
    quarantine = Quarantine()
    quarantine.died(["a", "b"], ["a", "b"])
    quarantine.release()
    assert not quarantine.gone("b"), "it leaves after the engine has died"
    assert quarantine.died(["a"], ["a"], left=1) == []
    assert quarantine.release() == ["a"]
    assert quarantine.died(["a"], ["a"]) == ["a"]


def test_a_group_whose_clients_have_all_left_is_skipped():
    quarantine = Quarantine()
    quarantine.died(["a", "b"], ["a", "b", "c"])
    quarantine.release()
    quarantine.died(["a", "b"], ["a", "b", "c"])
    assert quarantine.release() == ["a"]
    assert not quarantine.gone("b")
    assert quarantine.cleared("a")
    assert quarantine.release() == ["c"]


def test_nobody_in_flight_means_nobody_suspect():
    quarantine = Quarantine()
    assert quarantine.died([], ["a", "b"]) == []
    assert quarantine.release() == ["a", "b"]
    assert CLEARED > 1


def batch(serial: int, rows: list[int], entered: list[int]) -> Batch:
    array = np.array(rows, np.int32)
    entries = [RowEntry(row, SamplingParams(), 0, 0, ()) for row in entered]
    flags = np.ones(len(rows), bool)
    return Batch(serial, array, array, array, flags, flags, array, entered=entries)


@pytest.mark.parametrize("rows", [1, 3, 64, 257])
def test_the_black_box_names_those_in_flight(tmp_path, rows: int):
    path = tmp_path / "box"
    box = BlackBox(path, rows)
    assert in_flight(path) == set()
    for row in range(rows):
        box.seat(row, f"request {row}")
    box.began(batch(1, list(range(rows)), []))
    assert in_flight(path) == {digest(f"request {row}") for row in range(rows)}
    box.ended(1)
    box.began(batch(2, [0], []))
    box.began(batch(3, [rows - 1], []))
    assert in_flight(path) == {digest("request 0"), digest(f"request {rows - 1}")}


def test_the_journal_tells_sessions_in_order_and_the_latest_pause():
    journal = Journal()
    journal.called("open_session", {"session_id": None, "capacity": 100}, "s")
    journal.called("open_session", {"session_id": "t", "capacity": 0}, "t")
    asked = ask(session=SessionParams(id="s"))
    journal.ended(asked, [5, 6], 7.0)
    journal.ended(ask(session=SessionParams(id="never opened")), [5])
    journal.ended(ask(), [5])
    journal.called("pause_generation", {"mode": "abort"}, None)
    told = [(call.call, call.name, call.arguments) for call in journal.tell()]
    assert told == [
        (0, "open_session", {"session_id": "t", "capacity": 0}),
        (0, "open_session", {"session_id": "s", "capacity": 100}),
        (
            0,
            "restore_session",
            {
                "rid": "r",
                "session": asked.session,
                "input_ids": asked.input_ids,
                "output_ids": pack_ids([5, 6]),
                "since": 7.0,
            },
        ),
        (0, "pause_generation", {"mode": "in_place"}),
    ]
    journal.called("continue_generation", {}, None)
    journal.called("close_session", {"session_id": "s"}, None)
    assert [call.name for call in journal.tell()] == ["open_session"]


def test_a_missing_or_torn_black_box_says_nothing(tmp_path):
    assert in_flight(tmp_path / "none") == set()
    (tmp_path / "torn").write_bytes(b"123")
    assert in_flight(tmp_path / "torn") == set()
