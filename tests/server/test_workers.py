"""Several API workers, their parts by themselves: sums of counts, talk between processes, who may run again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from server.scripted import ScriptedEngine
from sglcore.engine.blackbox import digest
from sglcore.engine.recovery import Opened
from sglcore.errors import EngineDead, RequestError
from sglcore.isolation import Faults
from sglcore.request import FinishReason, GenerateRequest, RequestOutput
from sglcore.server.conversation import Conversation
from sglcore.server.counts import Counts, summed
from sglcore.server.metrics import ServerMetrics
from sglcore.server.verdicts import Verdicts
from sglcore.server.watch import Watch
from sglcore.text.branch_text import Piece


def metrics(requests: int, field: str = "") -> ServerMetrics:
    made = ServerMetrics("m")
    for _ in range(requests):
        watch = Watch(GenerateRequest(rid="r", input_ids=b""), made, ())
        watch.step([RequestOutput("r", 0, [1, 2, 3], prompt_tokens=4)])
        watch.ended([Piece(0, 0, finish=FinishReason("stop"))])
        watch.over()
    if field:
        made.count_ignored([field])
    return made


def samples(text: str) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


@pytest.mark.asyncio
async def test_one_worker_renders_the_sums_of_all() -> None:
    own, other = metrics(2, "a"), metrics(3, "b")
    engine = ScriptedEngine()
    engine.calls["metrics"] = {"num_running_reqs": 7}
    alone = (await own.render(engine)).decode()
    text = (await own.render(engine, [other.counts(), Counts()])).decode()
    got = samples(text)
    assert got['sglcore:num_requests_total{model_name="m"}'] == 5
    assert got['sglcore:generation_tokens_total{model_name="m"}'] == 15
    assert got['sglcore:e2e_request_latency_seconds_count{model_name="m"}'] == 5
    assert got['sglcore:e2e_request_latency_seconds_bucket{le="+Inf",model_name="m"}'] == 5
    assert got['sglcore:num_running_reqs{model_name="m"}'] == 7, "the engine's own is no sum"
    assert got['sglcore:ignored_request_fields_total{field="a",model_name="m"}'] == 1
    assert got['sglcore:ignored_request_fields_total{field="b",model_name="m"}'] == 1
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert types == [line for line in alone.splitlines() if line.startswith("# TYPE")]


def test_faults_and_fields_are_added_up() -> None:
    faults = Faults()
    faults.breaker("bad", "hook").failed(ValueError("x"))
    parts = [Counts([], faults.rows(), {"a": 1}), Counts([], faults.rows(), {"a": 2, "b": 1})]
    whole = summed(parts)
    assert [(row["plugin"], row["errors"]) for row in whole.faults] == [("bad", 2)]
    assert whole.ignored == {"a": 3, "b": 1}


def pair(**handlers: Callable[..., Any]) -> Conversation:
    """One end; the other has these handlers."""
    loop = asyncio.get_running_loop()
    here: Conversation
    there = Conversation(lambda data: loop.call_soon(here.take, data), handlers)  # type: ignore[arg-type, return-value]
    here = Conversation(lambda data: loop.call_soon(there.take, data), {})  # type: ignore[arg-type, return-value]
    return here


@pytest.mark.asyncio
async def test_answers_and_failures_cross() -> None:
    async def refuse() -> None:
        raise RequestError("Not now.", status=503, code="busy")

    def dead() -> None:
        raise EngineDead("It is gone.")

    heard: list[int] = []
    talk = pair(double=lambda x: 2 * x, refuse=refuse, dead=dead, told=heard.append, hang=lambda: asyncio.sleep(9))
    assert await talk.ask("double", x=21) == 42
    with pytest.raises(RequestError, match="Not now") as error:
        await talk.ask("refuse")
    assert (error.value.status, error.value.code) == (503, "busy")
    with pytest.raises(EngineDead, match="gone"):
        await talk.ask("dead")
    with pytest.raises(RequestError, match="KeyError"):
        await talk.ask("no such")
    with pytest.raises(EngineDead, match="no answer to hang"):
        await talk.ask("hang", within=0.01)
    waiting = asyncio.create_task(talk.ask("hang"))
    await asyncio.sleep(0)
    talk.close()
    with pytest.raises(EngineDead, match="has ended"):
        await waiting


class FakeWorker:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.opened: list[Opened] | None = None
        self.heard: list[Any] = []

    def tell(self, name: str, **arguments: Any) -> None:
        self.heard.append((name, *arguments.values()))

    def again(self, rids: list[str]) -> None:
        self.tell("again", rids=rids)

    def give_up(self, rid: str) -> None:
        self.tell("give_up", rid=rid)

    def refuse(self, rid: str) -> None:
        self.tell("refuse", rid=rid)

    def said(self) -> list[Any]:
        heard, self.heard = self.heard, []
        return heard


@pytest.fixture
def two() -> tuple[Any, FakeWorker, FakeWorker, list[FakeWorker]]:
    one, other = FakeWorker(), FakeWorker()
    there = [one, other]
    return Verdicts(lambda: there), one, other, there  # type: ignore[arg-type, return-value]


def flight(*rids: str) -> set[bytes]:
    return {digest(rid) for rid in rids}


def test_suspects_of_all_workers_run_first_then_the_rest(two) -> None:
    verdicts, one, other, _ = two
    verdicts.hold()
    verdicts.collect("new", flight("a", "b"))
    assert one.said() == other.said() == [("resume", "new")]
    verdicts.report(one, [Opened("a", 1.0, True), Opened("c", 3.0, True)])
    verdicts.hear("wait", one, "late")  # came after its report
    assert not one.heard and not other.heard, "nobody may run before all have reported"
    verdicts.report(other, [Opened("b", 2.0, True)])
    assert (one.said(), other.said()) == ([("again", ["a"])], [("again", ["b"])])
    verdicts.hear("cleared", one, "a")
    assert not one.heard
    verdicts.hear("gone", other, "b")
    assert one.said() == [("again", ["c", "late"]), ("clear",)] and other.said() == [("clear",)]
    verdicts.hear("wait", other, "new")  # it had not heard yet that all is clear
    assert other.said() == [("again", ["new"])]
    assert verdicts.recovery.replayed == 5


def test_the_one_that_kills_alone_is_given_up_whoever_has_it(two) -> None:
    verdicts, one, other, _ = two
    opened = {one: [Opened("a", 1.0, True)], other: [Opened("poison", 2.0, True)]}
    flying = ["a", "poison"]
    for _ in range(6):
        verdicts.hold()
        verdicts.collect("new", flight(*flying))
        for worker, mine in opened.items():
            verdicts.report(worker, mine)
        ran = [rid for worker in (one, other) for name, *rest in worker.said() if name == "again" for rid in rest[0]]
        if verdicts.recovery.poisoned:
            break
        if "poison" not in ran:
            verdicts.hear("cleared", one, "a")
            ran = [rid for name, *rest in other.said() if name == "again" for rid in rest[0]]
        flying = [rid for rid in ran if rid == "poison"] or ran
    assert verdicts.recovery.poisoned == 1


def test_a_dead_worker_is_not_waited_for_and_its_requests_are_gone(two) -> None:
    verdicts, one, other, there = two
    verdicts.hold()
    verdicts.collect("new", flight("a", "b"))
    verdicts.report(one, [Opened("a", 1.0, True)])
    assert verdicts.missing() == [other]
    there.remove(other)
    verdicts.left(other)
    assert ("again", ["a"]) in one.said()
    there.append(other)
    other.opened = []
    verdicts.hear("wait", other, "x")
    there.remove(other)
    verdicts.left(other)
    verdicts.hear("cleared", one, "a")
    assert one.said() == [("clear",)] and not [h for h in other.heard if h[0] == "again"]


def test_one_id_in_two_workers_is_refused_to_the_later(two) -> None:
    verdicts, one, other, _ = two
    verdicts.hold()
    verdicts.collect("new", flight("a"))
    verdicts.report(other, [Opened("a", 2.0, False)])
    verdicts.report(one, [Opened("a", 1.0, True)])
    assert ("refuse", "a") in other.said() and ("again", ["a"]) in one.said()
    verdicts.hear("wait", other, "a")
    verdicts.hear("gone", other, "a")
    assert other.said() == [("refuse", "a")] and not one.heard
    verdicts.hear("cleared", one, "a")
    assert ("clear",) in one.said()


def test_a_second_death_before_all_reported_begins_anew(two) -> None:
    verdicts, one, other, _ = two
    verdicts.hold()
    verdicts.collect("new", flight("a"))
    verdicts.report(one, [Opened("a", 1.0, True)])
    verdicts.hold()
    verdicts.report(other, [])  # to an engine that is gone
    assert not [h for h in one.heard if h[0] == "again"]
    one.said()
    verdicts.collect("newer", set())
    for worker, mine in ((one, [Opened("a", 1.0, False)]), (other, [])):
        verdicts.report(worker, mine)
    assert one.said() == [("resume", "newer"), ("again", ["a"]), ("clear",)]
