"""What the scheduler's tests share: asking, stepping, and gathering what came of it."""

from __future__ import annotations

from typing import Any

from sglcore.request import GenerateRequest, RequestOutput, SamplingParams, SessionParams, pack_ids


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ask(rid: str, prompt: list[int], new: int = 5, **fields: Any) -> GenerateRequest:
    """A request; `session` may be a dict of SessionParams' fields, what GenerateRequest does not know is sampling's."""
    session = fields.pop("session", None)
    known = {k: fields.pop(k) for k in list(fields) if k in GenerateRequest.__struct_fields__}
    return GenerateRequest(
        rid=rid,
        input_ids=pack_ids(prompt),
        sampling=SamplingParams(max_new_tokens=new, **fields),
        session=SessionParams(**session) if session else None,
        **known,
    )


class Drive:
    """Steps a scheduler at a depth and remembers all outputs. The books are checked after every step."""

    def __init__(self, scheduler: Any, runner: Any, depth: int = 1) -> None:
        self.scheduler, self.runner, self.depth = scheduler, runner, depth
        self.flight: list[Any] = []
        self.outputs: list[RequestOutput] = []
        self.seated: list[str] = []  # rids in the order in which they took seats

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            batch = self.scheduler.plan()
            self.seated += [self.scheduler.seated[e.row].rid for e in batch.entered]
            if not batch.idle or self.depth == 1:
                self.flight.append((batch, self.runner.run(batch)))
            if self.flight and (len(self.flight) >= self.depth or batch.idle):
                self.outputs += self.scheduler.commit(*self.flight.pop(0))
            self.outputs += self.scheduler.take_outbox()
            self.scheduler.ledger.check()

    def finish(self, limit: int = 2000) -> None:
        for _ in range(limit):
            if not self.scheduler.has_work and not self.flight:
                break
            self.step()
        assert not self.scheduler.has_work and not self.flight, "it does not come to an end"
        assert all(held == 0 for held in self.scheduler.ledger.held())
        assert not self.scheduler.seats.occupied

    def tokens(self, rid: str, branch: int = 0) -> list[int]:
        return [t for o in self.outputs if (o.rid, o.branch) == (rid, branch) for t in o.token_ids]

    def ends(self, rid: str) -> list[str]:
        return [o.finish.type for o in self.outputs if o.rid == rid and o.finish]
