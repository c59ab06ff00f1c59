"""LogitsProcessorConformance: a processor changes the rows that are its own, by what their requests say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from sglcore.contracts.logits_processors import LogitsProcessor, LogitsProcessorSpec, ProcessorContext
from sglcore.errors import RequestError
from sglcore.testing.specs import SpecConformance

VOCAB = 67
ROWS = 6
NONE = np.zeros(0, np.int32)
PROMPTS = ([3, 5, 5, 9], [1], list(range(20)))
TOKENS: tuple[list[int], ...] = ([], [7], [7, 7, 11, 3, 5])
# Arguments that a client may send by mistake.
STRANGE: tuple[dict[str, Any], ...] = (
    {},
    {"": None},
    {"x": 1e308},
    {"ids": "text"},
    {"ids": [[]]},
    {"n": -1},
    {"a": {}},
)


class LogitsProcessorConformance(SpecConformance):
    """Subclass with `spec`.

    arguments: objects that requests may send, one at least where {} is not one. refused: objects that must be refused.
    """

    spec: ClassVar[LogitsProcessorSpec]
    family = "logits_processors"
    arguments: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    refused: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    device: ClassVar[str] = "cpu"

    def make(self) -> LogitsProcessor:
        """A fresh processor over a vocabulary of VOCAB tokens."""
        context = ProcessorContext(vocab_size=VOCAB, eos_ids=(0,), device=torch.device(self.device))
        processor: LogitsProcessor = self.spec.load()(context)
        return processor

    def asked(self) -> tuple[Mapping[str, Any], ...]:
        """Arguments to try: `arguments`, or none at all where that is allowed."""
        if self.arguments:
            return self.arguments
        try:
            self.spec.check({})
        except RequestError:
            pytest.skip("the suite gives no arguments, and none at all are refused")
        return ({},)

    def test_arguments_are_judged(self) -> None:
        """Those given pass, those that must be refused are, with RequestError; strange ones raise nothing else."""
        for given in self.arguments:
            complaint = self._complaint(given)
            assert complaint is None, f"the arguments {given!r} are refused: {complaint}"
        for given in self.refused:
            assert self._complaint(given) is not None, f"the arguments {given!r} are accepted"
        for given in STRANGE:
            self._complaint(given)

    def test_only_its_own_rows_change(self) -> None:
        """In place, rows in any order; the others keep their bits; one finite token remains, and no NaN comes."""
        for given in self.asked():
            processor, logits = self.make(), self._logits()
            rows = [4, 0, 3]
            states = [self._begin(processor, given, i) for i in range(3)]
            before = logits.clone()
            processor.apply(logits, self._rows(rows), states)
            others = [row for row in range(ROWS) if row not in rows]
            assert torch.equal(logits[others], before[others]), f"{given!r}: rows change that are not its own"
            assert not bool(logits.isnan().any()), f"{given!r}: NaN comes into the logits"
            assert bool(logits.isfinite().any(-1).all()), f"{given!r}: a row has no token left"
            if self.spec.keeps_best:
                kept = torch.equal(logits.argmax(-1), before.argmax(-1))
                assert kept, f"{given!r}: the likeliest token changes, though keeps_best is declared"

    def test_rows_are_independent(self) -> None:
        """A row alone gets the very bits it gets among others, in whatever order."""
        for given in self.asked():
            whole = self._applied(given, [0, 1, 2])
            other = self._applied(given, [2, 0, 1])
            for row in range(3):
                assert torch.equal(whole[row], other[row]), f"{given!r}: row {row} depends on the order of rows"
                alone = self._applied(given, [row])
                assert torch.equal(whole[row], alone[row]), f"{given!r}: row {row} depends on the rows beside it"

    def test_a_state_can_be_made_again(self) -> None:
        """`begin` with the tokens so far gives what `accept` leads to, one by one or many at once."""
        for given in self.asked():
            for prompt in PROMPTS:
                processor = self.make()
                ways = [
                    processor.begin(given, array(prompt), array(TOKENS[-1])),
                    *self._accepted(processor, given, prompt),
                ]
                results = [self._one(processor, state) for state in ways]
                same = all(torch.equal(results[0], result) for result in results)
                assert same, f"{given!r}: a state rebuilt from its tokens differs from the one that followed them"

    def test_states_are_their_own(self) -> None:
        """What one branch generates changes nothing for another with the same request."""
        for given in self.asked():
            processor = self.make()
            first, second = (self._begin(processor, given, 0) for _ in range(2))
            before = self._one(processor, second)
            if self.spec.needs_tokens:
                processor.accept([first], array([7]))
            processor.apply(self._logits(), self._rows([1]), [first])
            assert torch.equal(self._one(processor, second), before), f"{given!r}: two branches share a state"

    def test_a_state_keeps_no_view(self) -> None:
        """Prompt and tokens are valid for the call only."""
        for given in self.asked():
            processor = self.make()
            lent, whole = array(PROMPTS[0]).copy(), array(TOKENS[-1]).copy()
            state = processor.begin(given, lent, whole)
            want = self._one(processor, processor.begin(given, array(PROMPTS[0]), array(TOKENS[-1])))
            lent[:], whole[:] = 2, 2
            assert torch.equal(self._one(processor, state), want), f"{given!r}: the state looks into a view it was lent"

    def _accepted(self, processor: LogitsProcessor, given: Mapping[str, Any], prompt: list[int]) -> list[Any]:
        """States that followed TOKENS[-1]: one token a call, and all in one call."""
        slow, quick = (processor.begin(given, array(prompt), NONE) for _ in range(2))
        if self.spec.needs_tokens:
            for token in TOKENS[-1]:
                processor.accept([slow], array([token]))
            processor.accept([quick] * len(TOKENS[-1]), array(TOKENS[-1]))
        return [slow, quick]

    def _applied(self, given: Mapping[str, Any], order: list[int]) -> torch.Tensor:
        processor, logits = self.make(), self._logits()
        processor.apply(logits, self._rows(order), [self._begin(processor, given, i) for i in order])
        return logits

    def _one(self, processor: LogitsProcessor, state: Any) -> torch.Tensor:
        logits = self._logits()
        processor.apply(logits, self._rows([1]), [state])
        return logits[1]

    def _begin(self, processor: LogitsProcessor, given: Mapping[str, Any], i: int) -> Any:
        tokens = TOKENS[i] if self.spec.needs_tokens else []
        return processor.begin(given, array(PROMPTS[i]), array(tokens))

    def _complaint(self, given: Mapping[str, Any]) -> str | None:
        """What the Spec, or else `begin`, says against arguments; anything but a RequestError is a failure."""
        try:
            self.spec.check(given)
            self.make().begin(given, array(PROMPTS[0]), NONE)
        except RequestError as error:
            return str(error)
        except Exception as error:
            raise AssertionError(f"the arguments {given!r} raise {type(error).__name__}, not RequestError") from error
        return None

    def _logits(self) -> torch.Tensor:
        return torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(2)).to(self.device)

    def _rows(self, rows: list[int]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.device)


def array(values: list[int]) -> np.ndarray:
    """int32, read only."""
    made = np.array(values, np.int32)
    view = made.view()
    view.flags.writeable = False
    return view
