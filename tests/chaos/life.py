"""One request as its client lives it: what it must get, what it got, and what may end it early."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from chaos.reference import Answer
from sglcore.errors import RequestError
from sglcore.request import FinishReason, GenerateRequest, RequestOutput


@dataclass(eq=False)
class Life:
    """`prompt` is the whole one, that of its session included. `cuts`: by branch, after how many tokens a stop string
    is found. `excuses`: codes of ends that something has given a reason for."""

    asked: GenerateRequest
    prompt: list[int]
    expected: list[Answer] = field(default_factory=list)
    told: list[tuple[float | None, int]] = field(default_factory=list)
    cuts: dict[int, int] = field(default_factory=dict)
    excuses: set[str] = field(default_factory=set)
    suspected: int = 0  # deaths of an engine with this request in flight
    tokens: list[list[int]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    ends: dict[int, FinishReason] = field(default_factory=dict)
    error: RequestError | None = None
    left: bool = False
    done: bool = False
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.tokens = [[] for _ in range(self.asked.n)]
        self.inputs = [0] * self.asked.n

    @property
    def rid(self) -> str:
        return self.asked.rid

    def cut(self, branch: int) -> bool:
        """Whether its client has found a stop string in the branch."""
        return len(self.tokens[branch]) >= self.cuts.get(branch, 1 << 30)

    @property
    def complete(self) -> bool:
        """All that this client waits for is there."""
        return all(branch in self.ends or self.cut(branch) for branch in range(self.asked.n))

    def take(self, out: RequestOutput) -> None:
        """One output, checked against what it must be."""
        branch, got, expected = out.branch, self.tokens[out.branch], self.expected[out.branch]
        name = f"{self.rid}/{branch}"
        assert branch not in self.ends, f"{name}: an output after the last one"
        if self.cut(branch):
            self.ends |= {branch: out.finish} if out.finish is not None else {}
            return
        assert out.prompt_tokens == len(self.prompt), f"{name}: {out.prompt_tokens} prompt tokens"
        start, end = len(got), len(got) + len(out.token_ids)
        right = expected.tokens[start:end]
        assert out.token_ids == right, f"{name}: {out.token_ids} behind {start} tokens, alone it gets {right}"
        got += out.token_ids
        if self.asked.return_logprob:
            given = [(p.logprob, p.token_id) for p in out.logprobs or ()]
            right_logprobs = list(zip(expected.logprobs[start:end], right, strict=True))
            assert given == right_logprobs, f"{name}: logprobs {given}, alone {right_logprobs}"
        self._take_inputs(out, name)
        if out.finish is not None:
            self._take_end(out.finish, branch, name)

    def _take_inputs(self, out: RequestOutput, name: str) -> None:
        if not out.input_logprobs:
            return
        start = self.inputs[out.branch]
        given = [(p.logprob, p.token_id) for p in out.input_logprobs]
        right = self.told[start : start + len(given)]
        assert given == right, f"{name}: logprobs of the prompt from {start} on: {given}, alone {right}"
        self.inputs[out.branch] += len(given)

    def _take_end(self, finish: FinishReason, branch: int, name: str) -> None:
        self.ends[branch] = finish
        if finish.type == "abort":
            excused = self.excuses & {"abort", finish.code or "abort"}
            assert excused, f"{name} was ended without a reason: {finish.message}"
            return
        expected = self.expected[branch]
        assert len(self.tokens[branch]) == len(expected.tokens), f"{name} ended early: {finish}"
        assert finish.type == expected.end, f"{name} ended by {finish.type}, alone by {expected.end}"
        assert finish.type != "stop" or finish.matched == expected.tokens[-1]
        assert self.inputs[branch] == len(self.told), (
            f"{name}: {self.inputs[branch]} of {len(self.told)} prompt logprobs"
        )

    def judge(self) -> None:
        """It is over for its client: rightly so?"""
        if self.error is not None:
            code = self.error.code or ""
            assert code in self.excuses, f"{self.rid} failed without a reason: {code} {self.error}"
            unbegun = code in ("queue_full", "displaced", "context_length_exceeded")
            assert not unbegun or not any(self.tokens), f"{self.rid} was refused after it had tokens: {code}"
        else:
            assert self.left or self.complete, f"{self.rid} got no end"
