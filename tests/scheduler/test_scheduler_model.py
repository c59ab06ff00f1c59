"""Model-based simulation: whatever the order of arrivals, steps, aborts and flushes, each gets its own tokens."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.fake import build, run_alone
from sglcore.builtin.policies import FirstComeFirstServed, LongestPrefixMatch
from sglcore.request import GenerateRequest, SamplingParams, pack_ids


class EngineLife(RuleBasedStateMachine):
    @initialize(
        page_size=st.sampled_from([1, 2, 4]),
        rows=st.integers(1, 4),
        chunk=st.sampled_from([1, 5, 64]),
        depth=st.integers(1, 2),
        cache=st.booleans(),
        windows=st.sampled_from([(0,), (0, 6)]),
        policy=st.sampled_from([FirstComeFirstServed, LongestPrefixMatch]),
        eos=st.sampled_from([(), (3, 17)]),
    )
    def start(self, page_size, rows, chunk, depth, cache, windows, policy, eos):
        self.windows, self.depth, self.eos = windows, depth, eos
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
        )
        self.flight: list = []
        self.asked: dict[str, tuple[list[int], int]] = {}
        self.got: dict[str, list[int]] = {}
        self.ended: dict[str, str] = {}

    @rule(
        stem=st.integers(0, 2),
        length=st.integers(1, 20),
        tail=st.lists(st.integers(0, 49), max_size=3),
        new=st.integers(1, 16),
    )
    def arrive(self, stem, length, tail, new):
        prompt = [(stem * 11 + j) % 50 for j in range(length)] + tail
        rid = f"r{len(self.asked)}"
        self.asked[rid] = (prompt, new)
        self.got[rid] = []
        self.scheduler.ratio.value = 0.1
        self.scheduler.add(
            GenerateRequest(rid=rid, input_ids=pack_ids(prompt), sampling=SamplingParams(max_new_tokens=new))
        )

    @rule(count=st.integers(1, 6))
    def step(self, count):
        for _ in range(count):
            batch = self.scheduler.plan()
            self.flight.append((batch, self.runner.run(batch)))
            if len(self.flight) >= self.depth:
                self.land()

    def land(self):
        self.take(self.scheduler.commit(*self.flight.pop(0)))

    def take(self, outputs):
        for out in outputs:
            assert out.rid not in self.ended, "an output after the last one"
            self.got[out.rid] += out.token_ids
            if out.finish:
                self.ended[out.rid] = out.finish.type

    @rule(pick=st.integers(0, 10**6))
    @precondition(lambda self: getattr(self, "asked", None))
    def abort(self, pick):
        self.scheduler.abort(f"r{pick % len(self.asked)}")
        self.take(self.scheduler.take_outbox())

    @rule()
    def forget(self):
        self.scheduler.ledger.flush()

    @rule()
    @precondition(lambda self: getattr(self, "flight", None))
    def settle(self):
        while self.flight:
            self.land()

    @invariant()
    def books_balance(self):
        if hasattr(self, "scheduler"):
            self.scheduler.ledger.check()
            rows = [b.row for b in self.scheduler.seated if b is not None]
            assert len(rows) == len(set(rows)) == self.scheduler.rows.size - self.scheduler.rows.free_seats

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3000):
            if not self.scheduler.has_work and not self.flight:
                break
            self.step(1)
        self.settle()
        assert not self.scheduler.has_work, "a request never finished"
        for rid, (prompt, new) in self.asked.items():
            alone = run_alone(prompt, new, windows=self.windows)
            cut = next((i + 1 for i, t in enumerate(alone) if t in self.eos), new)
            if self.ended[rid] == "abort":
                assert self.got[rid] == alone[: len(self.got[rid])]
            else:
                assert self.got[rid] == alone[:cut]
        assert all(h == 0 for h in self.scheduler.ledger.held())


TestEngineLife = EngineLife.TestCase
TestEngineLife.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
