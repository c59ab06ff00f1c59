from __future__ import annotations

import itertools
import time

import pytest

from engine.fakes import InlineExecutor, TimedDevice
from scheduler.fake import build, run_alone
from sglcore.engine.engine import Engine
from sglcore.errors import OutOfMemory
from sglcore.request import GenerateRequest, SamplingParams, pack_ids


def ask(rid: str, prompt: list[int], new: int) -> GenerateRequest:
    return GenerateRequest(rid=rid, input_ids=pack_ids(prompt), sampling=SamplingParams(max_new_tokens=new))


def finish_all(engine: Engine) -> dict[str, list[int]]:
    got: dict[str, list[int]] = {}
    while engine.has_work:
        for out in engine.step():
            got.setdefault(out.rid, []).extend(out.token_ids)
    return got


@pytest.mark.parametrize("overlap", [False, True])
def test_both_loops_give_every_request_its_own_tokens(overlap):
    scheduler, runner = build(pages=64, chunk=4)
    engine = Engine(scheduler, InlineExecutor(runner), overlap=overlap)
    prompts = {f"r{i}": [i, i + 1, i + 2, 3, 4, 5][: 2 + i] for i in range(5)}
    for rid, prompt in prompts.items():
        engine.add(ask(rid, prompt, 7))
    assert finish_all(engine) == {rid: run_alone(p, 7) for rid, p in prompts.items()}
    assert scheduler.ledger.held() == [0]


def test_overlapped_loop_queues_the_next_forward_before_it_commits():
    scheduler, runner = build()
    executor = InlineExecutor(runner)
    engine = Engine(scheduler, executor, overlap=True)
    engine.add(ask("a", [1, 2], 3))
    commit = scheduler.commit
    scheduler.commit = lambda batch, result: executor.events.append(f"commit {batch.serial}") or commit(batch, result)
    finish_all(engine)
    assert executor.events[:6] == ["forward 1", "sample 1", "forward 2", "commit 1", "sample 2", "forward 3"]


class Narrow(InlineExecutor):
    """A device without memory for steps of more than `most` tokens; it learns of rows and pages all the same."""

    def __init__(self, runner, most: int) -> None:
        super().__init__(runner)
        self.most, self.lost = most, 0

    def forward(self, batch) -> None:
        self._fits = batch.num_tokens <= self.most
        if self._fits:
            super().forward(batch)
        else:
            self.runner._apply(batch)

    def sample(self, batch, masks=None):
        if self._fits:
            return super().sample(batch, masks)
        self.lost += 1
        return NoMemory()


class NoMemory:
    def wait(self):
        raise OutOfMemory("No room.")


@pytest.mark.parametrize("overlap", [False, True])
def test_a_step_without_memory_is_tried_smaller(overlap):
    scheduler, runner = build(rows=4, context=400, pages=800, chunk=256)
    device = Narrow(runner, most=40)
    engine = Engine(scheduler, device, overlap=overlap)
    prompts = {f"r{i}": [(i * 7 + k) % 50 for k in range(20 + 60 * i)] for i in range(5)}
    for rid, prompt in prompts.items():
        engine.add(ask(rid, prompt, 9))
    assert finish_all(engine) == {rid: run_alone(p, 9) for rid, p in prompts.items()}
    assert 0 < device.lost <= 8
    assert scheduler.ledger.held() == [0]
    scheduler.ledger.check()


@pytest.mark.parametrize("overlap", [False, True])
def test_a_device_without_memory_for_anything_ends_the_engine(overlap):
    scheduler, runner = build(rows=4, context=400, pages=800, chunk=256)
    engine = Engine(scheduler, Narrow(runner, most=0), overlap=overlap)
    engine.add(ask("a", [1] * 100, 5))
    with pytest.raises(OutOfMemory):
        finish_all(engine)


def test_abort_reaches_the_client_and_frees_the_row():
    scheduler, runner = build()
    engine = Engine(scheduler, InlineExecutor(runner), overlap=True)
    engine.add(ask("a", [1, 2], 50))
    engine.step()
    assert engine.abort("a") == 1
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert [o.finish.type for o in outputs if o.finish] == ["abort"]
    assert scheduler.ledger.held() == [0]


def host_work(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def overlapped_run(device_time: float, host_time: float, steps: int) -> tuple[float, float]:
    """(share of plans and commits inside a neighbour's device interval, steps a second at the median gap)."""
    scheduler, runner = build(context=256, pages=256)
    device = TimedDevice(runner, device_time)
    engine = Engine(scheduler, device, overlap=True)
    spans: list[tuple[str, int, float, float]] = []

    def timed(name, call):
        def wrapped(*args):
            start = time.perf_counter()
            host_work(host_time / 2)
            result = call(*args)
            serial = result.serial if name == "plan" else args[0].serial
            spans.append((name, serial, start, time.perf_counter()))
            return result

        return wrapped

    scheduler.plan = timed("plan", scheduler.plan)
    scheduler.commit = timed("commit", scheduler.commit)
    engine.add(ask("a", [1, 2], steps))
    finish_all(engine)
    # plan N+1 and commit N-1 should lie between the start and the end of device interval N
    hidden = [
        device.busy[inside][0] <= start and end <= device.busy[inside][1]
        for name, serial, start, end in spans
        if (inside := serial - 1 if name == "plan" else serial + 1) in device.busy
    ]
    assert len(hidden) > 1.8 * steps
    starts = sorted(start for start, _ in device.busy.values())
    gaps = sorted(b - a for a, b in itertools.pairwise(starts))
    return sum(hidden) / len(hidden), 1 / gaps[len(gaps) // 2]


def test_overlap_hides_host_work_behind_the_device():
    """5 ms of device and 4 ms of host work a step: the step rate is the device's. A busy neighbour may spoil a run
    or two of five; a loop that does not overlap fails them all (9 ms a step)."""
    runs = [overlapped_run(0.005, 0.004, 60) for _ in range(5)]
    assert max(rate for _, rate in runs) >= 0.95 / 0.005, runs
    assert max(share for share, _ in runs) >= 0.9, runs
