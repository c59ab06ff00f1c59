"""Logits processors in the engine: their states by seat, and what a failure of theirs costs (one request).

Called by `Engine` on the loop thread, around each step. While no row uses a processor, that is a look-up or two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sglcore.batch import Batch, RowEntry, StepResult
from sglcore.contracts.logits_processors import LogitsProcessor, LogitsProcessorSpec, ProcessorContext
from sglcore.engine.processor_check import NAME_PARAM
from sglcore.errors import RequestError, SglcoreError
from sglcore.isolation import Breaker, Faults
from sglcore.registry import Registry
from sglcore.request import FinishReason
from sglcore.runner.edits import Edit

NEVER = 2**62  # errors after which a processor would be left out: a request that names it must not go without


@dataclass(slots=True)
class Built:
    """A processor in use."""

    processor: LogitsProcessor
    spec: LogitsProcessorSpec
    breaker: Breaker


@dataclass(slots=True)
class Seat:
    """One row's state; `failure` once something went wrong with it."""

    row: int
    arguments: Mapping[str, Any]
    prompt: int
    greedy: bool = False  # and nobody asks for its logprobs
    built: Built | None = None
    state: Any = None
    failure: FinishReason | None = None

    @property
    def spared(self) -> bool:
        """The processor would change nothing that anybody sees."""
        return self.greedy and self.built is not None and self.built.spec.keeps_best

    def begin(self, tokens: np.ndarray) -> None:
        """Make the state of a row with these tokens, int32 [prompt and output]."""
        assert self.built is not None
        self.state = self.built.processor.begin(self.arguments, tokens[: self.prompt], tokens[self.prompt :])


class Processors:
    """The processors of one engine, built when the first request asks for one.

    registry: None where the engine has no plugins. faults: where errors are counted, by distribution. history: a row's
    tokens that the scheduler knows, int32; asked only after an error.
    """

    def __init__(
        self,
        registry: Registry[LogitsProcessorSpec] | None = None,
        context: ProcessorContext | None = None,
        faults: Faults | None = None,
        history: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self._registry, self._context, self._faults = registry, context, faults or Faults()
        self._history = history
        self._built: dict[str, Built] = {}
        self._seats: dict[int, Seat] = {}

    def seats(self, batch: Batch) -> None:
        """Take in who left and who entered; right after the plan."""
        if self._seats:
            for row in [*batch.left, *(entry.row for entry in batch.entered)]:
                self._seats.pop(row, None)
        for entry in batch.entered:
            if entry.sampling.custom_logit_processor:
                self._seats[entry.row] = self._begin(entry)

    def edits(self, batch: Batch) -> list[Edit] | None:
        """What the processors will do to this step's logits; once the step before is committed. None: nothing."""
        if not self._seats:
            return None
        groups: dict[int, list[int]] = defaultdict(list)
        for i in np.flatnonzero(batch.samples).tolist():
            seat = self._seats.get(int(batch.rows[i]))
            if seat is not None and seat.built is not None and seat.failure is None and not seat.spared:
                groups[id(seat.built)].append(i)
        return [self._edit(batch, index) for index in groups.values()] or None

    def landed(self, batch: Batch, result: StepResult, edits: Sequence[Edit] | None) -> None:
        """The step's tokens are known: states follow them, and rows that failed are marked in `result`."""
        if not self._seats:
            return
        for edit in edits or ():
            for i, error in edit.errors.items():
                self._fail(self._seats.get(int(batch.rows[i])), error)
        self._accept(batch, result)
        for i, row in enumerate(batch.rows.tolist()):
            seat = self._seats.get(row)
            if seat is None or (seat.failure is None and result.finite[i]):
                continue
            result.finite[i], result.num_tokens[i] = False, 0
            result.failed[i] = seat.failure or _error("The model and its logits processor left no token to choose.")

    def _begin(self, entry: RowEntry) -> Seat:
        greedy = entry.sampling.greedy and entry.logprobs < 0
        seat = Seat(entry.row, entry.sampling.custom_params, entry.prompt, greedy)
        try:
            seat.built = self._build(entry.sampling.custom_logit_processor)
            seat.begin(entry.tokens)
        except Exception as error:
            self._fail(seat, error)
        return seat

    def _build(self, name: str) -> Built:
        if name not in self._built:
            if self._registry is None or self._context is None:
                raise RequestError("This engine has no logits processors.", param=NAME_PARAM)
            spec, entry = self._registry.spec(name), self._registry.entry(name)
            processor = self._registry.factory(name)(self._context)
            breaker = self._faults.breaker(entry.distribution, f"logits_processors:{name}", limit=NEVER)
            self._built[name] = Built(processor, spec, breaker)
        return self._built[name]

    def _edit(self, batch: Batch, index: list[int]) -> Edit:
        seats = [self._seats[int(batch.rows[i])] for i in index]
        built = seats[0].built
        assert built is not None
        return Edit(built.processor, np.array(index, dtype=np.int64), [seat.state for seat in seats])

    def _accept(self, batch: Batch, result: StepResult) -> None:
        groups: dict[int, list[tuple[Seat, list[int]]]] = defaultdict(list)
        for i, row in enumerate(batch.rows.tolist()):
            seat = self._seats.get(row)
            if seat is None or seat.built is None or seat.failure is not None or not result.num_tokens[i]:
                continue
            if seat.built.spec.needs_tokens:
                groups[id(seat.built)].append((seat, result.tokens[i, : result.num_tokens[i]].tolist()))
        for pairs in groups.values():
            try:
                _accept(pairs)
            except Exception as error:
                self._accept_alone(pairs, error)

    def _accept_alone(self, pairs: list[tuple[Seat, list[int]]], error: Exception) -> None:
        """Together it failed, and some states may have moved: make each again, and find whose error it was."""
        for seat, tokens in pairs:
            if len(pairs) == 1 or self._history is None:
                self._fail(seat, error)
                continue
            try:
                seat.begin(self._history(seat.row))
                _accept([(seat, tokens)])
            except Exception as own:
                self._fail(seat, own)

    def _fail(self, seat: Seat | None, error: Exception) -> None:
        if seat is None:
            return
        if isinstance(error, RequestError):  # the request's own fault
            seat.failure = FinishReason("error", None, str(error), error.status, error.code, error.param)
            return
        if seat.built is not None:
            seat.built.breaker.failed(error)
        told = isinstance(error, SglcoreError)
        seat.failure = _error(str(error) if told else "The logits processor failed; the server's log has the cause.")


def _accept(pairs: list[tuple[Seat, list[int]]]) -> None:
    """One call for all rows of one processor."""
    built = pairs[0][0].built
    assert built is not None
    states = [seat.state for seat, tokens in pairs for _ in tokens]
    built.processor.accept(states, np.array([token for _, tokens in pairs for token in tokens], dtype=np.int32))


def _error(text: str) -> FinishReason:
    return FinishReason("error", None, text, 500, "logits_processor_error", NAME_PARAM)
