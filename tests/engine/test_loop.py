"""EngineLoop over an inline port: refusals, delivery per client, calls, and the hooks it serves."""

from __future__ import annotations

import sys
import types

import pytest

import sglcore
from engine.fakes import InlineExecutor
from scheduler.fake import build, run_alone
from sglcore.engine.engine import Engine
from sglcore.engine.link import InlinePort
from sglcore.engine.loop import EngineLoop
from sglcore.engine.messages import Abort, Call, Outputs, Reply, Submit
from sglcore.errors import LedgerImbalance, RequestError
from sglcore.plugins import Entry, select
from sglcore.request import CACHE_MISSES, GenerateRequest, SamplingParams, pack_ids


def hooks(monkeypatch: pytest.MonkeyPatch, **functions):
    module = types.ModuleType("loop_hooks")
    for name, function in functions.items():
        setattr(module, name, sglcore.hookimpl(function))
    monkeypatch.setitem(sys.modules, "loop_hooks", module)
    return select([Entry("hooks", "t", "loop_hooks", "d", "1", 1)], "auto").hooks


def make(monkeypatch, **functions) -> tuple[EngineLoop, InlinePort]:
    scheduler, runner = build()
    port = InlinePort()
    engine = Engine(scheduler, InlineExecutor(runner), overlap=True)
    return EngineLoop(engine, port, hooks(monkeypatch, **functions), {"model": "fake"}), port


def submit(rid: str, prompt: list[int], new: int = 4) -> Submit:
    return Submit(GenerateRequest(rid=rid, input_ids=pack_ids(prompt), sampling=SamplingParams(max_new_tokens=new)))


def run(loop: EngineLoop, port: InlinePort) -> list:
    loop.turn(block=False)
    while loop.engine.has_work:
        loop.turn(block=False)
    messages = list(port.outbox)
    port.outbox.clear()
    return messages


def test_tokens_come_back_one_message_a_step(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox += [submit("a", [1, 2]), submit("b", [3])]
    messages = run(loop, port)
    assert len(messages) == 4  # both rows in each
    got = [t for m in messages for o in m.outputs if o.rid == "a" for t in o.token_ids]
    assert got == run_alone([1, 2], 4)
    assert not loop.owner


def test_a_refusal_travels_the_road_of_tokens(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox.append(submit("a", [999]))
    (message,) = run(loop, port)
    assert isinstance(message, Outputs)
    finish = message.outputs[0].finish
    assert finish.type == "error" and finish.param == "input_ids" and finish.status == 400


def test_calls_are_answered(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox += [Call(1, "metrics"), Call(2, "no_such"), Call(3, "flush_cache"), Call(4, "info")]
    replies = {m.call: m for m in run(loop, port) if isinstance(m, Reply)}
    assert replies[1].result["num_running_reqs"] == 0
    assert replies[2].failure.status == 404
    assert replies[3].failure is None
    assert replies[4].result["model"] == "fake" and replies[4].result["internal_states"]


def test_flush_while_running_is_refused(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox += [submit("a", [1]), Call(1, "flush_cache")]
    replies = [m for m in run(loop, port) if isinstance(m, Reply)]
    assert "cannot be flushed" in replies[0].failure.message


def test_abort_counts_and_the_last_output_arrives(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox += [submit("job-1", [1], 40), submit("job-2", [2], 40)]
    loop.turn(block=False)
    port.inbox.append(Abort("job-", 7))
    messages = run(loop, port)
    assert [m.result for m in messages if isinstance(m, Reply)] == [2]
    ended = [o.rid for m in messages if isinstance(m, Outputs) for o in m.outputs if o.finish]
    assert sorted(ended) == ["job-1", "job-2"]


def test_exact_abort_of_a_gone_request_does_not_meet_its_namesakes(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox += [submit("job-1", [1], 5), Abort("job", exact=True)]
    messages = run(loop, port)
    assert [o.finish.type for m in messages for o in m.outputs if o.finish] == ["length"]


def test_observers_hear_of_steps_and_ends(monkeypatch):
    seen: list = []
    loop, port = make(
        monkeypatch,
        on_step=lambda stats: seen.append(("step", stats["steps"])),
        on_request_finished=lambda summary: seen.append((summary["rid"], summary["finish"])),
    )
    port.inbox.append(submit("a", [1, 2]))
    run(loop, port)
    assert ("a", "length") in seen and any(kind == "step" for kind, _ in seen)


def test_admission_hook_may_refuse(monkeypatch):
    def admit_request(request):
        raise RequestError("Quota used up.", status=429, code="quota")

    loop, port = make(monkeypatch, admit_request=admit_request)
    port.inbox.append(submit("a", [1]))
    (message,) = run(loop, port)
    assert message.outputs[0].finish.status == 429 and message.outputs[0].finish.code == "quota"


def test_an_id_used_again_after_an_abort_is_a_new_request(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox.append(submit("a", [1, 2], 20))
    loop.turn(block=False)
    loop.turn(block=False)
    port.outbox.clear()
    port.inbox += [Abort("a", exact=True), submit("a", [5], 3)]
    outputs = [o for m in run(loop, port) for o in m.outputs]
    assert outputs[0].finish.type == "abort"
    assert [t for o in outputs[1:] for t in o.token_ids] == run_alone([5], 3)
    assert not loop.owner


def test_an_exact_abort_that_comes_late_ends_no_request_whose_id_goes_on(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox += [submit("a", [1], 20), submit("ab", [2], 4)]
    loop.turn(block=False)
    port.inbox += [Abort("a", call=1), Abort("a", exact=True)]
    outputs = [o for m in run(loop, port) if isinstance(m, Outputs) for o in m.outputs]
    assert {o.rid: o.finish.type for o in outputs if o.finish} == {"a": "abort", "ab": "length"}


def test_the_books_are_checked_when_the_last_request_has_gone(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox.append(submit("a", [1, 2]))
    run(loop, port)
    loop.engine.scheduler.ledger.allocators[0].take(1)  # a page that nobody will have
    port.inbox.append(submit("b", [3, 4]))
    with pytest.raises(LedgerImbalance):
        run(loop, port)


def test_without_strict_checks_an_imbalance_is_told_and_the_engine_goes_on(monkeypatch):
    loop, port = make(monkeypatch)
    ledger = loop.engine.scheduler.ledger
    ledger.strict = False
    ledger.allocators[0].take(1)
    for rid in ("a", "b"):
        port.inbox.append(submit(rid, [1, 2]))
        got = [t for m in run(loop, port) for o in m.outputs for t in o.token_ids]
        assert got == run_alone([1, 2], 4)
    cache = loop.engine.stats()["prefix_cache"]
    assert (cache["imbalances"], cache["quarantined_pages"]) == (1, 1)


def test_why_a_prompt_was_not_cached_comes_with_its_tokens(monkeypatch):
    loop, port = make(monkeypatch)
    port.inbox.append(submit("a", [1, 2, 3, 4]))
    first = [o for m in run(loop, port) for o in m.outputs]
    port.inbox.append(submit("b", [1, 2, 3, 4]))
    second = [o for m in run(loop, port) for o in m.outputs]
    assert {CACHE_MISSES[o.cache_miss] for o in first} == {"no_match"}
    assert {CACHE_MISSES[o.cache_miss] for o in second} == {""}
    assert loop.engine.stats()["prefix_cache"]["requests"]["no_match"] == 1
