"""The world of one run: the real client, loop, engine, scheduler and ledger around a device without a model.

Nothing is stubbed between a request and the device but the sockets and the clock. An action does one thing to it;
after each turn of the engine's loop all that must always hold is checked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from chaos.checks import check_books, check_idle, check_lives
from chaos.device import Device, DeviceLost, Faults, Fuse, Killed
from chaos.life import Life
from chaos.reference import VOCAB, alone, told_of_prompt
from chaos.setup import CONTEXT, POLICIES, POOL, RULES, SHAPES, Setup
from chaos.wire import Client, Wire
from sglcore.engine.blackbox import BlackBox, RecordedExecutor, digest, in_flight
from sglcore.engine.engine import Engine
from sglcore.engine.loop import EngineLoop
from sglcore.engine.messages import Abort
from sglcore.errors import RequestError
from sglcore.memory.eviction import ORDERS
from sglcore.memory.ledger import CacheOptions, GroupPages, KVLedger
from sglcore.memory.node import Node
from sglcore.memory.rows import RowTable
from sglcore.plugins import select
from sglcore.request import GenerateRequest, RequestOutput, SamplingParams, SessionParams, pack_ids
from sglcore.scheduler import Limits, Scheduler

HOOKS = select([], "none").hooks
BOX = Path(tempfile.gettempdir()) / f"sglcore-chaos-{os.getpid()}"
SECONDS_A_TURN = 0.5
SESSION = "s"


class Clock:
    """Virtual seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """Made, entered with `begin`, acted upon, and left with `finish`; all within one event loop."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.clock, self.faults = setup, Clock(), Faults()
        self.wire = Wire()
        self.counts: Counter[str] = Counter()
        self.lives: list[Life] = []
        self.latest: dict[str, Life] = {}  # rid -> the last request of that name
        self.failure: BaseException | None = None
        self.doomed: list[tuple[str, int, int]] = []  # (rid, epoch, branch) that this turn's aborts must end
        self.loop: EngineLoop | None = None
        self.down = 0
        self.suspects: set[bytes] = set()
        self.random_deaths = False
        self.poisoned: set[str] = set()
        self.idle_turns = 0  # in which requests waited and nothing was launched
        self._background: set[asyncio.Task[Any]] = set()

    # -- the machine --

    async def begin(self) -> None:
        self.client = Client(self.wire)
        self._start_engine()
        self._call("open_session", session_id=SESSION)
        await self.pump()
        await self.turn()

    def _start_engine(self) -> None:
        s, self.idle_turns = self.setup, 0
        pages, groups = -(-POOL // s.page_size), len(s.windows)
        table = RowTable(s.rows, CONTEXT, -(-CONTEXT // s.page_size) + 1, groups)
        options = CacheOptions(keep=s.cache, order=ORDERS[s.order](), tenant_share=s.quota)
        ledger = KVLedger([GroupPages(pages, w) for w in s.windows], s.page_size, table, cache=options)
        ledger.tree.watch = self
        limits = Limits(s.chunk, VOCAB, queued=s.queued, overtakes=s.overtakes, priority=RULES[s.rules])
        scheduler = Scheduler(ledger, table, POLICIES[s.policy](), limits, s.eos, clock=self.clock)
        scheduler.ratio.value = 0.1  # admit more than will fit
        self.device = Device(ledger, s.eos, self.faults, scheduler.seated)
        recorded = RecordedExecutor(self.device, BlackBox(BOX, s.rows), scheduler.seated)
        self.loop = EngineLoop(Engine(scheduler, recorded, overlap=s.overlap), self.wire, HOOKS, {})
        self.loop._abort = self._seen(self.loop._abort)  # type: ignore[method-assign]

    @property
    def scheduler(self) -> Scheduler:
        assert self.loop is not None
        return self.loop.engine.scheduler

    def stored(self, node: Node) -> None:
        """`TreeWatch`: a prefix is cached."""
        self.counts["cached nodes"] += 1

    def split(self, upper: Node, lower: Node) -> None:
        """`TreeWatch`: a node was cut in two."""
        self.counts["splits"] += 1

    def removed(self, node: Node) -> None:
        """`TreeWatch`: a prefix is evicted."""
        assert node.lock == 0, "a locked node was evicted"
        assert not node.children, "a node was evicted from above others"
        self.counts["evictions"] += 1

    async def turn(self) -> None:
        """The engine's loop goes round once, and its messages arrive."""
        self.clock.now += SECONDS_A_TURN
        if self.loop is None:
            self.down -= 1
            if self.down < 0:
                self._restart()
        else:
            before, steps, launches = self.scheduler.counts, self.loop.engine.steps, self.device.launches
            try:
                self.loop.turn(block=not self.loop.engine.has_work)
            except (Killed, DeviceLost):
                self._die(late=False, down=0)
            else:
                self._count_turn(before, steps, launches)
        self.wire.deliver()
        await self.pump()
        self.check()

    def _count_turn(self, before: dict[str, int], steps: int, launches: int) -> None:
        assert self.loop is not None
        after = self.scheduler.counts
        for name in ("retractions", "preemptions", "timeouts"):
            self.counts[name] += after[name] - before[name]
        self.counts["engine steps"] += self.loop.engine.steps - steps
        stuck = self.scheduler.requests and not self.scheduler.paused and self.device.launches == launches
        self.idle_turns = self.idle_turns + 1 if stuck else 0
        assert self.idle_turns < 5, "requests wait, nothing is computed"
        for rid, epoch, branch in self.doomed:
            request = self.scheduler.requests.get(rid)
            open_ = request is not None and request.asked.epoch == epoch
            assert not open_ or (branch >= 0 and request.branches[branch].finish), f"{rid} outlived its abort"
        self.doomed.clear()

    async def pump(self) -> None:
        """Let clients take what has arrived."""
        ready: Any = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        for _ in range(50):
            await asyncio.sleep(0)
            if not ready:
                break
        else:
            raise AssertionError("the clients do not come to rest")

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.loop is not None:
            check_books(self.scheduler, self.device)
            if self.wire.empty:
                check_lives(self.loop, self.client)

    # -- death and what follows --

    def _die(self, *, late: bool, down: int) -> None:
        self.counts["deaths"] += 1
        flying = {digest(rid) for flight in self.device.flights for rid in flight.rids}
        self.suspects = in_flight(BOX)
        assert flying <= self.suspects, "the black box does not tell of a step in flight"
        for life in self._open():
            life.suspected += digest(life.rid) in self.suspects
        self.faults.fuse = None
        self.client.suspend()
        self.loop, self.down = None, down
        self.doomed.clear()
        self.wire.cut(late)

    def _restart(self) -> None:
        self._start_engine()
        before = self.client.replayed
        self.client.resume("", self.suspects)
        self._count_replays(before)

    def _count_replays(self, before: int) -> None:
        self.counts["replays at once"] += self.client.replayed - before

    # -- requests --

    def _open(self) -> list[Life]:
        return [life for life in self.lives if not life.done]

    def _picked(self, pick: int) -> Life | None:
        open_ = self._open()
        return open_[pick % len(open_)] if open_ else None

    def _name(self, again: bool) -> str:
        free = [rid for rid, life in self.latest.items() if life.done and life.asked.session is None] if again else []
        return free[0] if free else f"r{len(self.lives)}"

    async def arrive(
        self, stem: int, length: int, new: int, shape: str, salt: str, priority: int | None, again: bool
    ) -> None:
        """A request; `stem` says which other prompts begin as its own does."""
        fields = dict(SHAPES[shape])
        cuts = fields.pop("cuts", {})
        prompt = [(stem * 11 + j) % VOCAB for j in range(length)]
        if length % 3 == 0:
            prompt[-1] = (prompt[-1] + length) % VOCAB
        if "logprob_start" in fields:
            fields["logprob_start"] = min(fields["logprob_start"], length - 1)
        sampling = SamplingParams(max_new_tokens=new, **fields.pop("sampling", {"temperature": 0}))
        rid = self._name(again)
        asked = GenerateRequest(
            rid=rid, input_ids=pack_ids(prompt), sampling=sampling, namespace=salt, priority=priority, **fields
        )
        await self._submit(asked, prompt, cuts, set())

    async def continue_session(self, pick: int, new: int, replace: bool) -> None:
        """A request of the session: its first, or one that goes on from one that has ended."""
        ended = [life for life in self.lives if life.asked.session and life.done and "replaced" not in life.excuses]
        ended = [life for life in ended if life.error is None]
        params, before, unheard = SessionParams(id=SESSION), [], set()
        if ended:
            parent = ended[pick % len(ended)]
            before = parent.prompt + parent.tokens[0]
            params = SessionParams(id=SESSION, rid=parent.rid, replace=replace)
            if replace:
                self._replace(parent)
            if parent.left and not parent.tokens[0] and "queue_full" in parent.excuses:
                unheard = {"session_request_not_found"}  # it may have been refused, and its client left before it heard
        own = [7, pick % VOCAB]
        sampling = SamplingParams(max_new_tokens=new, temperature=0)
        asked = GenerateRequest(rid=f"s{len(self.lives)}", input_ids=pack_ids(own), sampling=sampling, session=params)
        await self._submit(asked, before + own, {}, unheard)

    def _replace(self, parent: Life) -> None:
        gone = {parent.rid}
        for life in self.lives:
            session = life.asked.session
            if session is not None and session.rid in gone:
                gone.add(life.rid)
                life.excuses |= {"replaced", "abort", "session_request_not_found"}

    async def _submit(self, asked: GenerateRequest, prompt: list[int], cuts: dict[int, int], excuses: set[str]) -> None:
        life = Life(asked, prompt, cuts=cuts, excuses=excuses)
        self.lives.append(life)
        self.latest[asked.rid] = life
        if self.scheduler_limits_queue:
            life.excuses |= {"queue_full", "displaced"}
        if asked.timeout is not None:
            life.excuses.add("timeout")
        if len(prompt) + max(asked.sampling.max_new_tokens, 1) > CONTEXT:
            life.excuses.add("context_length_exceeded")
        self.counts["arrivals"] += 1
        life.task = asyncio.get_running_loop().create_task(self._live(life))
        await self.pump()

    @property
    def scheduler_limits_queue(self) -> bool:
        return self.setup.queued is not None or self.counts["limits"] > 0

    def _expect(self, life: Life) -> None:
        """What it must get, with the seed that the client gave it."""
        life.asked = self.client._streams[life.rid].record.request
        s = self.setup
        life.expected = [alone(life.asked, life.prompt, b, s.eos, s.windows) for b in range(life.asked.n)]
        life.told = told_of_prompt(life.asked, life.prompt, s.windows)

    async def _live(self, life: Life) -> None:
        """What a server does for one request: take its outputs, leave when all is there."""
        try:
            async with aclosing(self.client.generate(life.asked)) as steps:  # type: ignore[type-var]
                async for outputs in steps:
                    if not life.expected:
                        self._expect(life)
                    self._take(life, outputs)
                    if life.complete:
                        break
        except RequestError as error:
            life.error = error
            self._excuse_error(life)
        except asyncio.CancelledError:
            life.left = True
        except BaseException as error:
            self.failure = self.failure or error
        life.done = True
        try:
            life.judge()
        except AssertionError as error:
            self.failure = self.failure or error

    def _take(self, life: Life, outputs: list[RequestOutput]) -> None:
        """One delivery; branches in which it brings a stop string are cut."""
        before = {branch for branch in range(life.asked.n) if life.cut(branch)}
        for out in outputs:
            life.take(out)
        for branch in range(life.asked.n) if not life.complete else ():
            if life.cut(branch) and branch not in before and branch not in life.ends:
                self.client.end_branch(life.rid, branch)
                self.counts["branches cut"] += 1

    def _excuse_error(self, life: Life) -> None:
        error = life.error
        assert error is not None
        self.counts[f"errors: {error.code}"] += 1
        if error.code == "not_finite" and life.rid in self.faults.spoiled:
            life.excuses.add("not_finite")
        deadly = self.random_deaths or life.rid in self.poisoned
        if error.code == "engine_death" and life.suspected > 1 and deadly:
            life.excuses.add("engine_death")

    # -- actions --

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await self.turn()

    async def leave(self, pick: int) -> None:
        """A client disconnects."""
        life = self._picked(pick)
        if life is not None and life.task is not None:
            life.task.cancel()
            self.counts["disconnects"] += 1
            await self.pump()

    async def abort(self, pick: int) -> None:
        """Somebody aborts by id, maybe one that has ended, maybe one that others' ids begin with."""
        if self.lives:
            rid = self.lives[pick % len(self.lives)].rid
            await self._abort(rid)

    async def abort_all(self) -> None:
        await self._abort("")

    async def _abort(self, rid: str) -> None:
        for life in self._open():
            if life.rid.startswith(rid):
                life.excuses.add("abort")
        self._spawn(self._answered(self.client.abort(rid)))
        await self.pump()

    def _seen(self, handle: Callable[[bytes, Abort], int]) -> Callable[[bytes, Abort], int]:
        """`EngineLoop._abort`, with a look at what it is about to meet."""

        def look(client: bytes, message: Abort) -> int:
            self._look(message)
            return handle(client, message)

        return look

    def _look(self, message: Abort) -> None:
        scheduler = self.scheduler
        exact = scheduler.requests.get(message.rid)
        met = [exact] if exact else [r for rid, r in scheduler.requests.items() if rid.startswith(message.rid)]
        if message.exact and exact is None:
            return
        for request in met:
            self.doomed.append((request.rid, request.asked.epoch, message.branch))
            rows = [b.row for b in request.branches if b.row >= 0 and b.finish is None]
            table = scheduler.rows
            flying = any(table.in_flight[row] for row in rows)
            prefilling = any(table.computed[row] < table.prefill_end[row] for row in rows)
            self.counts["aborts"] += 1
            self.counts["aborts in flight"] += flying
            self.counts["aborts in prefill"] += prefilling
            self.counts["aborts while queued"] += not rows
            self.counts["aborts of several branches"] += len(request.branches) > 1

    async def duplicate(self, pick: int) -> None:
        """The id of an open request is asked for again."""
        life = self._picked(pick)
        if life is None or life.rid not in self.client._streams:
            return
        try:
            async for _ in self.client.generate(life.asked):
                raise AssertionError("an id ran twice")
        except RequestError:
            self.counts["duplicates refused"] += 1

    async def retract(self, pick: int) -> None:
        """A running row is sent back to the queue."""
        if self.loop is not None:
            active = np.flatnonzero(self.scheduler.rows.active)
            if len(active):
                self.scheduler.seats.retract(int(active[pick % len(active)]))
                self.counts["retractions"] += 1
                self.check()

    async def evict(self, pages: int) -> None:
        """Unused prefixes go."""
        if self.loop is not None:
            ledger = self.scheduler.ledger
            for allocator, freed in zip(
                ledger.allocators, ledger.tree.evict([pages] * len(ledger.allocators)), strict=True
            ):
                allocator.give(freed)
            self.check()

    async def flush(self) -> None:
        self._call("flush_cache")
        await self.pump()

    async def pause(self, mode: str) -> None:
        if mode == "abort":
            for life in self._open():
                life.excuses.add("abort")
        self.counts[f"pauses: {mode}"] += 1
        self._call("pause_generation", mode=mode)
        await self.pump()

    async def go_on(self) -> None:
        self._call("continue_generation")
        await self.pump()

    async def crash(self, where: str, after: int, caught: bool, late: bool, down: int) -> None:
        """The engine dies, now or at a point of a step to come."""
        if self.loop is None:
            return
        self.random_deaths = True
        if where == "idle":
            self._die(late=late, down=down)
            await self.pump()
        else:
            self.faults.fuse = Fuse(where, after, DeviceLost if caught else Killed)

    async def poison(self, pick: int, after: int) -> None:
        """A request turns out to kill the engine whenever it has got so far."""
        life = self._picked(pick)
        if life is not None:
            self.faults.poison = {life.rid: after}
            self.poisoned.add(life.rid)

    async def not_finite(self, pick: int) -> None:
        """A row of the next step gives NaN."""
        self.faults.not_finite = pick

    async def limits(self, chunk: int, overtakes: int, queued: int | None) -> None:
        """The limits change while the engine runs."""
        self.counts["limits"] += 1
        for life in self._open():
            life.excuses |= {"queue_full", "displaced"}
        if self.loop is not None:
            s = self.scheduler
            s.limits = s.admission.limits = dataclasses.replace(
                s.limits, chunk=chunk, overtakes=overtakes, queued=queued
            )
            s._planner.chunk, s.queue.overtakes = chunk, max(overtakes, len(s.queue._passers))

    async def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds

    async def lag(self, turns: int) -> None:
        """From now on the engine's messages take so many turns."""
        self.wire.lag = turns

    def _call(self, name: str, **arguments: Any) -> None:
        self._spawn(self._answered(self.client.call(name, **arguments), name))

    async def _answered(self, asking: Coroutine[Any, Any, Any], name: str = "abort") -> None:
        try:
            await asking
        except RequestError as error:
            fine = error.code == "engine_restarting" or (name == "flush_cache" and error.code == "busy")
            if not fine:
                self.failure = self.failure or AssertionError(f"{name}: {error.code} {error}")
        except BaseException as error:
            self.failure = self.failure or error

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- the end --

    async def finish(self) -> None:
        """Everything comes to its end, within a bound, and nothing is left behind."""
        self.faults.fuse = None
        self.wire.lag = 0
        work = sum(life.asked.n * (len(life.prompt) + life.asked.sampling.max_new_tokens + 8) for life in self._open())
        for _ in range(100 + 4 * work):
            calm = self.loop is not None and not self.loop.engine.has_work and self.wire.empty
            if calm and not self._open() and not self._background:
                break
            if self.loop is not None and self.scheduler.paused and not self._background:
                await self.go_on()
            await self.turn()
        open_ = [life.rid for life in self._open()]
        assert not open_, f"{open_} never ended"
        self.counts["replays"] += self.client.replayed
        assert self.loop is not None
        check_idle(self.loop, self.client, self.device)

    async def close(self) -> None:
        """Stop what still runs; after a failure too."""
        for task in [*self._background, *(life.task for life in self.lives if life.task is not None)]:
            task.cancel()
        await asyncio.sleep(0)
        if hasattr(self, "client"):
            await self.client.close()
