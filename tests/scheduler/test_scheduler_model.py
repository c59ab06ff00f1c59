"""Model-based simulation: whatever the order of arrivals, steps, ends, retractions and pauses, each gets its tokens."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.driving import Clock, ask
from scheduler.fake import build, run_alone
from sglcore.builtin import policies
from sglcore.errors import RequestError
from sglcore.scheduler import PriorityRules

POLICIES = [
    policies.FirstComeFirstServed,
    policies.LongestPrefixMatch,
    policies.DepthFirstByWeight,
    policies.LongestOutputFirst,
    policies.ByPriority,
    policies.RandomOrder,
]
RULES = [PriorityRules(), PriorityRules(enabled=True, threshold=2), PriorityRules(enabled=True, threshold=0, ageing=3)]
running = precondition(lambda self: getattr(self, "asked", None))


class EngineLife(RuleBasedStateMachine):
    @initialize(
        page_size=st.sampled_from([1, 2, 4]),
        rows=st.integers(1, 4),
        chunk=st.sampled_from([1, 5, 64]),
        depth=st.integers(1, 2),
        cache=st.booleans(),
        windows=st.sampled_from([(0,), (0, 6)]),
        policy=st.sampled_from(POLICIES),
        rules=st.sampled_from(RULES),
        overtakes=st.integers(1, 4),
        eos=st.sampled_from([(), (3, 17)]),
    )
    def start(self, page_size, rows, chunk, depth, cache, windows, policy, rules, overtakes, eos):
        self.windows, self.depth, self.eos, self.clock = windows, depth, eos, Clock()
        self.scheduler, self.runner = build(
            rows=rows,
            context=40,
            pages=-(-48 // page_size),
            page_size=page_size,
            chunk=chunk,
            cache=cache,
            windows=windows,
            policy=policy(),
            eos=eos,
            clock=self.clock,
            priority=rules,
            overtakes=overtakes,
            queued=8,
        )
        self.scheduler.sessions.start("s", 0, self.clock())
        self.flight: list = []
        self.asked: dict[str, tuple[list[int], int, int]] = {}  # rid -> prompt, new tokens, branches
        self.got: dict[tuple[str, int], list[int]] = {}
        self.ended: dict[tuple[str, int], str] = {}

    @rule(
        stem=st.integers(0, 2),
        length=st.integers(1, 20),
        tail=st.lists(st.integers(0, 49), max_size=3),
        new=st.integers(1, 16),
        n=st.sampled_from([1, 1, 1, 3]),
        priority=st.sampled_from([None, 0, 1, 5]),
        timeout=st.sampled_from([None, None, 4.0]),
    )
    def arrive(self, stem, length, tail, new, n, priority, timeout):
        prompt = [(stem * 11 + j) % 50 for j in range(length)] + tail
        self.submit(prompt, prompt, new, n=n, priority=priority, timeout=timeout)

    def submit(self, prompt, whole, new, **fields):
        """`whole` is what the request's tokens follow, which for one of a session is more than it sends."""
        rid = f"r{len(self.asked)}"
        self.scheduler.ratio.value = 0.1
        try:
            self.scheduler.add(ask(rid, prompt, new, **fields))
        except RequestError as refusal:
            if refusal.status != 429 and refusal.code != "context_length_exceeded":
                raise
            return
        n = fields.get("n", 1)
        self.asked[rid] = (whole, new, n)
        self.got |= {(rid, branch): [] for branch in range(n)}
        self.take(self.scheduler.take_outbox())  # a displaced request's end

    @rule(pick=st.integers(0, 10**6), new=st.integers(1, 6), replace=st.booleans())
    def continue_session(self, pick, new, replace):
        entries = self.scheduler.sessions.open["s"].entries
        done = [e for e in entries.values() if e.output is not None]
        if not done:
            self.submit([7, 8], [7, 8], new, session={"id": "s"})
            return
        entry = done[pick % len(done)]
        whole = [*entry.prompt.tolist(), *entry.output.tolist(), 9]
        self.submit([9], whole, new, session={"id": "s", "rid": entry.rid, "replace": replace})

    @rule(count=st.integers(1, 6))
    def step(self, count):
        for _ in range(count):
            self.clock.now += 0.5
            batch = self.scheduler.plan()
            self.flight.append((batch, self.runner.run(batch)))
            if len(self.flight) >= self.depth:
                self.land()
            self.take(self.scheduler.take_outbox())

    def land(self):
        self.take(self.scheduler.commit(*self.flight.pop(0)))

    def take(self, outputs):
        for out in outputs:
            key = (out.rid, out.branch)
            assert key not in self.ended, "an output after the last one"
            self.got[key] += out.token_ids
            if out.finish:
                self.ended[key] = out.finish.type

    @rule(pick=st.integers(0, 10**6), branch=st.sampled_from([-1, -1, 0, 1]))
    @running
    def abort(self, pick, branch):
        self.scheduler.abort(f"r{pick % len(self.asked)}", branch=branch)
        self.take(self.scheduler.take_outbox())

    @rule(pick=st.integers(0, 10**6))
    @running
    def retract(self, pick):
        active = self.scheduler.rows.active.nonzero()[0]
        if len(active):
            self.scheduler.seats.retract(int(active[pick % len(active)]))

    @rule(mode=st.sampled_from(["abort", "retract", "in_place", "retract", "in_place"]))
    @running
    def pause(self, mode):
        self.scheduler.pause(mode)
        self.take(self.scheduler.take_outbox())

    @rule()
    @precondition(lambda self: getattr(self, "asked", None) and self.scheduler.paused)
    def resume(self):
        self.scheduler.resume()

    @rule()
    def forget(self):
        self.scheduler.ledger.flush()

    @rule()
    @precondition(lambda self: getattr(self, "flight", None))
    def settle(self):
        while self.flight:
            self.land()
        self.take(self.scheduler.take_outbox())

    @invariant()
    def books_balance(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        scheduler.ledger.check()
        rows = [b.row for b in scheduler.seated if b is not None]
        assert len(rows) == len(set(rows)) == scheduler.rows.size - scheduler.rows.free_seats
        waiting = scheduler.queue.branches
        assert [b.arrival for b in waiting] == sorted(b.arrival for b in waiting)
        assert scheduler.queue.tokens == sum(map(scheduler.queue._cost, waiting))
        assert len(scheduler.queue._passers) <= scheduler.queue.overtakes
        assert scheduler.sessions.tokens == sum(
            e.cost for s in scheduler.sessions.open.values() for e in s.entries.values()
        )

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.resume()
        for _ in range(3000):
            if not self.scheduler.has_work and not self.flight:
                break
            self.step(1)
        self.settle()
        assert not self.scheduler.has_work, "a request never finished"
        assert all(h == 0 for h in self.scheduler.ledger.held())
        assert not self.scheduler.queue.tokens and not self.scheduler.sessions._running
        self.everybody_got_their_own()

    def everybody_got_their_own(self):
        for rid, (prompt, new, n) in self.asked.items():
            alone = run_alone(prompt, new, windows=self.windows)
            cut = next((i + 1 for i, t in enumerate(alone) if t in self.eos), new)
            for branch in range(n):
                got = self.got[rid, branch]
                whole = alone[: len(got)] if self.ended[rid, branch] in ("abort", "error") else alone[:cut]
                assert got == whole


TestEngineLife = EngineLife.TestCase
TestEngineLife.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
