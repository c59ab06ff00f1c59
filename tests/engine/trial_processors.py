"""Processors that go wrong when their arguments say so."""

from __future__ import annotations

from typing import Any

from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.errors import RequestError


class Trial:
    """Forces `token`; `fail` names the method that raises, once `after` tokens are there."""

    def __init__(self, context: Any) -> None:
        self.applied = 0

    def begin(self, arguments, prompt, tokens):
        if arguments.get("fail") == "begin":
            raise ValueError("begin")
        if arguments.get("fail") == "refuse":
            raise RequestError("not this one", param="fail")
        return {"arguments": dict(arguments), "tokens": tokens.tolist()}

    def apply(self, logits, rows, states):
        self.applied += 1
        for row, state in zip(rows.tolist(), states, strict=True):
            logits[row] -= 1e4
            self._maybe_fail("apply", state)
            logits[row, state["arguments"]["token"] + len(state["tokens"])] = 0.0
            if state["arguments"].get("fail") == "empty":
                logits[row] = float("-inf")

    def accept(self, states, tokens):
        for state, token in zip(states, tokens.tolist(), strict=True):
            state["tokens"].append(token)
            self._maybe_fail("accept", state)

    def _maybe_fail(self, method, state):
        arguments = state["arguments"]
        if arguments.get("fail") == method and len(state["tokens"]) >= arguments.get("after", 0):
            raise ValueError(method)


class Broken:
    def __init__(self, context: Any) -> None:
        raise OSError("no such library")


def check(arguments):
    if "token" not in arguments:
        raise RequestError("`token` is missing.", param="token")


TRIAL = LogitsProcessorSpec(
    name="trial", factory="engine.trial_processors:Trial", validator="engine.trial_processors:check"
)
BROKEN = LogitsProcessorSpec(name="broken", factory="engine.trial_processors:Broken")
