"""One branch's tokens on their way to text: detokenizing, stop strings, end of text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from sglcore.contracts.services import TextService
from sglcore.engine.detokenize import Detokenizer, StopStrings, WindowDetokenizer
from sglcore.request import FinishReason, RequestOutput, SamplingParams, TokenLogprobs


@runtime_checkable
class Detokenizing(Protocol):
    """A text service with its own incremental detokenizer (the built-in one has)."""

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer: ...


@dataclass(slots=True)
class Piece:
    """What is new in one branch of one prompt; counts are of the whole branch so far.

    `text` may lag behind `token_ids`: unfinished characters and possible stop strings are held back.
    """

    prompt: int  # index among the prompts of the HTTP request
    branch: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    input_logprobs: list[TokenLogprobs] | None = None
    finish: FinishReason | None = None
    completion_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class BranchText:
    """Turns a branch's RequestOutputs into Pieces, at most one each.

    Tokens are gathered until `interval` of them are new (the first is passed on at once) or the branch ends.
    """

    def __init__(
        self, prompt: int, branch: int, text: TextService | None, asked: SamplingParams, interval: int
    ) -> None:
        self._detokenizer = _detokenizer(text, asked.skip_special_tokens)
        self._stops = StopStrings(asked.stop, trim=not asked.no_stop_trim)
        self._asked = asked
        self._interval = interval
        self._piece = Piece(prompt, branch)
        self._sent = 0
        self.done = False

    def advance(self, output: RequestOutput) -> Piece | None:
        """Take what one step delivered; None while there is nothing to pass on."""
        if self.done:
            return None
        piece = self._piece
        piece.prompt_tokens = output.prompt_tokens or piece.prompt_tokens
        piece.cached_tokens = max(piece.cached_tokens, output.cached_tokens)
        if output.input_logprobs:
            piece.input_logprobs = [*(piece.input_logprobs or []), *output.input_logprobs]
        # Zero tokens were asked for: the engine was asked for one, because a prompt's logprobs come with a step.
        if self._asked.max_new_tokens > 0:
            piece.token_ids += output.token_ids
            piece.completion_tokens += len(output.token_ids)
            piece.logprobs += output.logprobs or []
            piece.text += self._text_of(output)
        self._end(output)
        waiting = piece.completion_tokens - self._sent
        if piece.finish is None and (not waiting or (self._sent and waiting < self._interval)):
            return None
        return self._take()

    def _text_of(self, output: RequestOutput) -> str:
        ids = output.token_ids
        matched = output.finish.matched if output.finish else None
        if ids and ids[-1] == matched and not self._asked.no_stop_trim:
            ids = ids[:-1]  # the token that ended the branch has no place in its text
        text = self._stops.push(self._detokenizer.push(ids))
        if output.finish is not None and self._stops.matched is None:
            text += self._stops.push(self._detokenizer.finish())
            if self._stops.matched is None:
                text += self._stops.finish()
        return text

    def _end(self, output: RequestOutput) -> None:
        finish = output.finish
        if self._stops.matched is not None:
            finish = FinishReason("stop", self._stops.matched)
        elif finish is not None and self._asked.max_new_tokens == 0 and finish.type == "stop":
            finish = FinishReason("length")
        self._piece.finish = finish
        self.done = finish is not None

    def _take(self) -> Piece:
        piece, self._sent = self._piece, self._piece.completion_tokens
        self._piece = Piece(
            piece.prompt,
            piece.branch,
            completion_tokens=piece.completion_tokens,
            prompt_tokens=piece.prompt_tokens,
            cached_tokens=piece.cached_tokens,
        )
        return piece


class _NoText:
    """Without a tokenizer there is no text."""

    def push(self, ids: Iterable[int]) -> str:
        return ""

    def finish(self) -> str:
        return ""


def _detokenizer(text: TextService | None, skip_special_tokens: bool) -> Detokenizer:
    if text is None:
        return _NoText()
    if isinstance(text, Detokenizing):
        return text.detokenizer(skip_special_tokens=skip_special_tokens)
    return WindowDetokenizer(lambda ids: text.decode(ids, skip_special_tokens=skip_special_tokens))
