"""A sound logits processor, and others that each break one promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sglcore.contracts.logits_processors import ProcessorContext
from sglcore.errors import RequestError


def validate(arguments: Mapping[str, Any]) -> None:
    """`strength`, a number from 0 to 10, and nothing else."""
    strength = arguments.get("strength")
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if set(arguments) != {"strength"} or not number or not 0 <= strength <= 10:
        raise RequestError("`strength` is a number from 0 to 10.", param="strength")


def validate_by_luck(arguments: Mapping[str, Any]) -> None:
    if arguments["strength"] < 0:
        raise RequestError("Below 0.")


def accept_all(arguments: Mapping[str, Any]) -> None:
    """No complaint."""


class Sound:
    """Lowers what was generated before, the more often the lower."""

    def __init__(self, context: ProcessorContext) -> None:
        self.context = context

    def begin(self, arguments: Mapping[str, Any], prompt: np.ndarray, tokens: np.ndarray) -> Any:
        return {"strength": arguments.get("strength", 1.0), "seen": Counter(tokens.tolist())}

    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        for row, state in zip(rows.tolist(), states, strict=True):
            for token, count in state["seen"].items():
                logits[row, token] -= count * state["strength"]

    def accept(self, states: Sequence[Any], tokens: np.ndarray) -> None:
        for state, token in zip(states, tokens.tolist(), strict=True):
            state["seen"][token] += 1


class ChangesOtherRows(Sound):
    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        logits -= 0.5


class MakesNaN(Sound):
    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        logits[rows, 0] = float("nan")


class ForbidsEverything(Sound):
    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        logits[rows] = float("-inf")


class ForbidsTheBest(Sound):
    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        logits[rows, logits[rows].argmax(-1)] -= 100


class GoesByPlace(Sound):
    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        super().apply(logits, rows, states)
        for place, row in enumerate(rows.tolist()):
            logits[row, 1] += place


class GoesByTheBatch(Sound):
    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        super().apply(logits, rows, states)
        logits[rows, 1] += len(states)


class ForgetsRepeats(Sound):
    def accept(self, states: Sequence[Any], tokens: np.ndarray) -> None:
        for state, token in zip(states, tokens.tolist(), strict=True):
            state["seen"][token] = 1


class SharesItsStates(Sound):
    shared: Any = None

    def begin(self, arguments: Mapping[str, Any], prompt: np.ndarray, tokens: np.ndarray) -> Any:
        state = super().begin(arguments, prompt, tokens)
        self.shared = Counter() if self.shared is None else self.shared
        return {**state, "seen": self.shared}


class KeepsAView(Sound):
    def begin(self, arguments: Mapping[str, Any], prompt: np.ndarray, tokens: np.ndarray) -> Any:
        return {**super().begin(arguments, prompt, tokens), "prompt": prompt}

    def apply(self, logits: torch.Tensor, rows: torch.Tensor, states: Sequence[Any]) -> None:
        super().apply(logits, rows, states)
        for row, state in zip(rows.tolist(), states, strict=True):
            logits[row, int(state["prompt"][0])] -= 1
