from __future__ import annotations

import msgspec
import numpy as np
import pytest

from scheduler.fake import build, run_alone
from sglcore.builtin.policies import LongestPrefixMatch
from sglcore.errors import RequestError
from sglcore.request import GenerateRequest, SamplingParams, TokenLogprobs, pack_ids


def ask(rid: str, prompt: list[int], new: int = 5, **kw) -> GenerateRequest:
    n = kw.pop("n", 1)
    namespace = kw.pop("namespace", "")
    return GenerateRequest(
        rid=rid, input_ids=pack_ids(prompt), sampling=SamplingParams(max_new_tokens=new, **kw), n=n, namespace=namespace
    )


def drive(scheduler, runner, depth: int = 1, steps: int = 500) -> dict[tuple[str, int], list[int]]:
    """Run to the end; `depth` 2 plans a step before the one before is committed."""
    got: dict[tuple[str, int], list[int]] = {}
    flight = []
    for _ in range(steps):
        if not scheduler.has_work and not flight:
            break
        working = scheduler.has_work
        if working:
            batch = scheduler.plan()
            flight.append((batch, runner.run(batch)))
        if len(flight) >= depth or not working:
            for out in scheduler.commit(*flight.pop(0)):
                got.setdefault((out.rid, out.branch), []).extend(out.token_ids)
        scheduler.ledger.check()
    assert not scheduler.has_work and not flight
    return got


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("chunk", [3, 64])
@pytest.mark.parametrize("cache", [True, False])
def test_every_request_gets_the_tokens_it_would_get_alone(depth, page_size, chunk, cache):
    scheduler, runner = build(page_size=page_size, chunk=chunk, cache=cache, pages=128 // page_size)
    prompts = {f"r{i}": [(i * 7 + j) % 50 for j in range(5 + 3 * i)] for i in range(7)}
    for rid, prompt in prompts.items():
        scheduler.add(ask(rid, prompt, 6))
    got = drive(scheduler, runner, depth)
    assert got == {(rid, 0): run_alone(p, 6) for rid, p in prompts.items()}
    assert scheduler.ledger.held() == [0]


@pytest.mark.parametrize("depth", [1, 2])
def test_too_few_pages_retract_and_resume_exactly(depth):
    scheduler, runner = build(rows=6, pages=40, context=40)
    prompts = {f"r{i}": [i * 5 + j for j in range(4)] for i in range(6)}
    for rid, prompt in prompts.items():
        scheduler.ratio.value = 0.0  # admit everybody, so that pages must run out
        scheduler.add(ask(rid, prompt, 20))
        scheduler.ratio.value = 0.0
    got = drive(scheduler, runner, depth)
    assert got == {(rid, 0): run_alone(p, 20) for rid, p in prompts.items()}
    assert scheduler.counts["retractions"] > 0


def test_mixed_step_prefills_beside_decode():
    scheduler, runner = build(chunk=4)
    scheduler.add(ask("a", [1, 2], 8))
    for _ in range(2):
        batch = scheduler.plan()
        scheduler.commit(batch, runner.run(batch))
    scheduler.add(ask("b", list(range(10)), 2))
    batch = scheduler.plan()
    assert batch.counts.tolist() == [1, 4] and batch.from_table.tolist() == [True, False]
    assert batch.samples.tolist() == [True, False]


def test_second_request_is_served_from_the_cache():
    scheduler, runner = build(page_size=4, pages=32)
    prompt = list(range(20))
    scheduler.add(ask("a", prompt, 2))
    drive(scheduler, runner)
    scheduler.add(ask("b", prompt, 2))
    batch = scheduler.plan()
    assert scheduler.seated[batch.rows[0]].cached == 16  # the last token is always computed, 19 // 4 pages
    assert batch.counts.tolist() == [4]


def test_neighbours_share_a_prefix_that_is_still_being_computed():
    prompt = [(3 * i) % 50 for i in range(48)]
    for cache, computed in ((True, 48 + 3), (False, 4 * 48)):
        scheduler, runner = build(rows=4, pages=256, context=64, chunk=512, cache=cache)
        for i in range(4):
            scheduler.add(ask(f"r{i}", prompt, 1))
        drive(scheduler, runner)
        assert runner.computed_tokens == computed


def test_branches_of_one_request_share_its_prompt():
    scheduler, runner = build(rows=4, pages=256, context=64, chunk=512)
    prompt = [(3 * i) % 50 for i in range(48)]
    scheduler.add(ask("a", prompt, 3, n=3))
    got = drive(scheduler, runner)
    assert got == {("a", b): run_alone(prompt, 3) for b in range(3)}
    assert runner.computed_tokens == 48 + 2 + 3 * 2


def test_namespaces_do_not_share():
    scheduler, runner = build()
    prompt = list(range(12))
    scheduler.add(ask("a", prompt, 1, namespace="x"))
    drive(scheduler, runner)
    scheduler.add(ask("b", prompt, 1, namespace="y"))
    scheduler.plan()
    assert scheduler.seated[0].cached == 0


def test_two_groups_full_and_window():
    windows = (0, 8)
    scheduler, runner = build(rows=3, context=80, pages=90, page_size=2, windows=windows, chunk=16)
    prompts = {f"r{i}": [(i + j) % 50 for j in range(20 + i)] for i in range(5)}
    for rid, prompt in prompts.items():
        scheduler.add(ask(rid, prompt, 24))
    got = drive(scheduler, runner)
    assert got == {(rid, 0): run_alone(p, 24, windows=windows) for rid, p in prompts.items()}
    full, window = scheduler.ledger.tree.cached
    assert window < full  # pages behind the window were let go
    # the same again, now with a cache of which the window group has only tails
    scheduler.add(ask("again", prompts["r0"] + run_alone(prompts["r0"], 24, windows=windows), 4))
    got = drive(scheduler, runner)
    assert got[("again", 0)] == run_alone(
        prompts["r0"] + run_alone(prompts["r0"], 24, windows=windows), 4, windows=windows
    )


def test_longest_prefix_first():
    scheduler, runner = build(rows=1, policy=LongestPrefixMatch(), pages=200)
    scheduler.add(ask("seed", list(range(30)), 1))
    drive(scheduler, runner)
    scheduler.add(ask("cold", [40, 41, 42], 1))
    scheduler.add(ask("warm", [*range(25), 49], 1))
    scheduler.plan()
    assert scheduler.seated[0].rid == "warm"


@pytest.mark.parametrize("depth", [1, 2])
def test_stop_ids_and_eos(depth):
    prompt = [1, 2, 3]
    answer = run_alone(prompt, 10)
    scheduler, runner = build(eos=(answer[4],))
    scheduler.add(ask("eos", prompt, 10))
    scheduler.add(ask("own", prompt, 10, stop_token_ids=(answer[2],)))
    scheduler.add(ask("ignore", prompt, 10, ignore_eos=True))
    got = drive(scheduler, runner, depth)
    assert got[("eos", 0)] == answer[: answer.index(answer[4]) + 1]
    assert got[("own", 0)] == answer[: answer.index(answer[2]) + 1]
    assert got[("ignore", 0)] == answer


def test_a_row_that_is_not_finite_fails_alone_and_leaves_nothing_in_the_cache():
    scheduler, runner = build()
    scheduler.add(ask("good", [1, 2, 3], 4))
    scheduler.add(ask("bad", [4, 5, 6], 4))
    batch = scheduler.plan()
    runner.bad_rows = {int(r) for r in batch.rows if scheduler.seated[r].rid == "bad"}
    outputs = scheduler.commit(batch, runner.run(batch))
    failed = [o for o in outputs if o.rid == "bad"]
    assert failed[0].finish.type == "error" and failed[0].finish.status == 500
    runner.bad_rows = set()
    scheduler.ledger.check()
    assert scheduler.ledger.matched("", np.array([4, 5, 6], dtype=np.int32)) == 0
    assert drive(scheduler, runner)[("good", 0)] == run_alone([1, 2, 3], 4)[1:]


@pytest.mark.parametrize("when", ["queued", "prefill", "running", "in flight"])
def test_abort_frees_everything(when):
    scheduler, runner = build(rows=1, chunk=4)
    scheduler.add(ask("x", list(range(10)), 10))
    if when != "queued":
        batch = scheduler.plan()
        if when == "prefill":
            scheduler.commit(batch, runner.run(batch))
        if when == "running":
            scheduler.commit(batch, runner.run(batch))
            for _ in range(4):
                batch = scheduler.plan()
                scheduler.commit(batch, runner.run(batch))
    assert scheduler.abort("x") == 1
    assert scheduler.abort("x") == 0
    if when == "in flight":
        assert scheduler.ledger.held()[0] > 0
        scheduler.commit(batch, runner.run(batch))
    assert [o.finish.type for o in scheduler.take_outbox()] in ([["abort"], []][when == "in flight"],)
    scheduler.ledger.check()
    assert scheduler.ledger.held() == [0] and not scheduler.has_work


def test_abort_by_prefix_and_all():
    scheduler, _ = build()
    for rid in ("a-1", "a-2", "b-1"):
        scheduler.add(ask(rid, [1], 1))
    assert scheduler.abort("a-") == 2
    assert scheduler.abort("") == 1


@pytest.mark.parametrize(
    ("request_", "param", "status"),
    [
        (ask("e", [], 1), "input_ids", 400),
        (ask("v", [50], 1), "input_ids", 400),
        (ask("n", [-1], 1), "input_ids", 400),
        (ask("c", [1] * 60, 5), "max_new_tokens", 400),
        (ask("p", [1] * 20, 40), "max_new_tokens", 400),
        (ask("dup", [1], 1), "rid", 400),
    ],
)
def test_what_can_never_run_is_refused_with_numbers(request_, param, status):
    scheduler, _ = build(pages=50)
    scheduler.add(ask("dup", [1], 1))
    with pytest.raises(RequestError) as error:
        scheduler.add(request_)
    assert error.value.param == param and error.value.status == status


def test_full_queue_is_429():
    scheduler, _ = build(rows=1, queued=2)
    for i in range(3):
        scheduler.add(ask(f"r{i}", [1], 1))
        scheduler.plan()
    with pytest.raises(RequestError) as error:
        scheduler.add(ask("r3", [1], 1))
    assert error.value.status == 429


def test_flush_refuses_while_running_and_empties_when_idle():
    scheduler, runner = build()
    scheduler.add(ask("a", list(range(9)), 2))
    with pytest.raises(RequestError):
        scheduler.flush()
    drive(scheduler, runner)
    assert scheduler.ledger.tree.cached[0] > 0
    scheduler.flush()
    assert scheduler.ledger.tree.cached[0] == 0 and scheduler.ledger.allocators[0].free == 64
    scheduler.ledger.check()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_lone_row_that_holds_a_second_copy_of_its_prompt_still_ends(depth):
    scheduler, runner = build(rows=2, context=128, pages=100, chunk=512)
    prompt = [(3 * i) % 50 for i in range(45)]
    scheduler.add(ask("first", prompt, 1))
    drive(scheduler, runner, depth)
    # its own logprobs are wanted, so the prompt is computed again beside the cached one: 45 + 45 + 30 > 100 pages
    request = ask("again", prompt, 30)
    scheduler.add(msgspec.structs.replace(request, return_logprob=True, logprob_start=0))
    assert drive(scheduler, runner, depth)[("again", 0)] == run_alone(prompt, 30)


def test_the_first_prompt_token_has_a_place_among_input_logprobs():
    scheduler, runner = build()
    request = msgspec.structs.replace(ask("a", [7, 8, 9], 1), return_logprob=True, logprob_start=0)
    scheduler.add(request)
    batch = scheduler.plan()
    assert batch.input_logprobs[0][1].tolist() == [8, 9]
    outputs = scheduler.commit(batch, runner.run(batch))
    assert outputs[0].input_logprobs == [TokenLogprobs(None, 7)]


def test_a_prompt_that_fills_the_context_has_no_room_for_a_token():
    scheduler, _ = build(context=16)
    with pytest.raises(RequestError) as error:
        scheduler.add(ask("a", [1] * 16, 0))
    assert error.value.code == "context_length_exceeded"


def test_a_burst_fills_seats_and_queue_before_it_is_refused():
    scheduler, _ = build(rows=4, queued=2)
    for i in range(6):  # no step in between
        scheduler.add(ask(f"r{i}", [1], 1))
    with pytest.raises(RequestError) as error:
        scheduler.add(ask("r6", [1], 1))
    assert error.value.status == 429


def test_namespaces_of_the_past_leave_nothing_behind():
    scheduler, runner = build(page_size=4, context=64, pages=16)
    for i in range(40):
        scheduler.add(ask(f"r{i}", [1] * (1 + i % 9), 1, namespace=f"user {i}"))
        drive(scheduler, runner)
    assert len(scheduler.ledger.tree._roots) <= 16  # no more than there are pages
    scheduler.flush()
    assert not scheduler.ledger.tree._roots
