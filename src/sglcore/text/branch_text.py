"""One branch's tokens on their way to text: detokenizing, stop strings, end of text."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sglcore.contracts.services import Detokenizer, TextService
from sglcore.request import FinishReason, HiddenStates, RequestOutput, SamplingParams, TokenLogprobs
from sglcore.text.detokenize import StopStrings
from sglcore.text.stop_regex import StopRegex


class Piece(msgspec.Struct, gc=False):
    """What is new in one branch of one prompt; counts are of the whole branch so far.

    `text` may lag behind `token_ids`: unfinished characters and possible stop strings are held back.
    """

    prompt: int  # index among the prompts of the HTTP request
    branch: int
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    input_logprobs: list[TokenLogprobs] | None = None
    hidden_states: list[HiddenStates] = []
    finish: FinishReason | None = None
    completion_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_miss: int = 0  # index in request.CACHE_MISSES


class BranchText:
    """Turns a branch's RequestOutputs into Pieces, at most one each.

    Tokens are gathered until `interval` of them are new (the first is passed on at once) or the branch ends.
    """

    def __init__(
        self, prompt: int, branch: int, text: TextService | None, asked: SamplingParams, interval: int
    ) -> None:
        self._detokenizer = _detokenizer(text, asked.skip_special_tokens)
        self._stops = StopStrings(asked.stop, trim=not asked.no_stop_trim)
        self._regex = StopRegex(asked.stop_regex) if asked.stop_regex else None
        self._asked = asked
        self._interval = interval
        self._piece = Piece(prompt, branch)
        self._sent = 0
        self.done = False

    def advance(self, output: RequestOutput, *, more: bool = False) -> Piece | None:
        """Take what one step delivered; None while there is nothing to pass on.

        more: the next output is there already, so nothing is passed on yet unless the branch ends.
        """
        if self.done:
            return None
        piece = self._piece
        _take_prompt(piece, output)
        # Zero tokens were asked for: the engine was asked for one, because a prompt's logprobs come with a step.
        if self._asked.max_new_tokens > 0:
            piece.token_ids += output.token_ids
            piece.completion_tokens += len(output.token_ids)
            if output.logprobs:
                piece.logprobs += output.logprobs
            if output.finish is None:
                piece.text += self._cut(self._detokenizer.push(output.token_ids))
                if self._regex is not None and self._regex.matched is not None:
                    piece.text += self._rest()
            else:
                piece.text += self._last_text(output)
        if output.finish is not None or self._matched is not None:
            self._end(output)
        if piece.finish is None:
            waiting = piece.completion_tokens - self._sent
            if more or not waiting or (self._sent and waiting < self._interval):
                return None
        return self._take()

    def _last_text(self, output: RequestOutput) -> str:
        ids = output.token_ids
        matched = output.finish.matched if output.finish else None
        if ids and ids[-1] == matched and not self._asked.no_stop_trim:
            ids = ids[:-1]  # the token that ended the branch has no place in its text
        text = self._cut(self._detokenizer.push(ids))
        if not self._matched:
            text += self._cut(self._detokenizer.finish())
        return text + self._rest()

    def _rest(self) -> str:
        """What was held back for stop strings that did not come."""
        return self._stops.finish() if self._stops.matched is None else ""

    def _cut(self, text: str) -> str:
        """What the branch keeps of its next text. A stop string wins over an expression that ends at the same place."""
        return self._stops.push(text if self._regex is None else self._regex.push(text))

    @property
    def _matched(self) -> str | None:
        """The stop string or expression that ended the text."""
        if self._stops.matched is not None or self._regex is None:
            return self._stops.matched
        return self._regex.matched

    def _end(self, output: RequestOutput) -> None:
        finish = output.finish
        if self._matched is not None:
            finish = FinishReason("stop", self._matched)
        elif finish is not None and self._asked.max_new_tokens == 0 and finish.type == "stop":
            finish = FinishReason("length")
        self._piece.finish = finish
        self.done = finish is not None

    def _take(self) -> Piece:
        piece, self._sent = self._piece, self._piece.completion_tokens
        self._piece = after = Piece(piece.prompt, piece.branch)
        after.completion_tokens, after.prompt_tokens = piece.completion_tokens, piece.prompt_tokens
        after.cached_tokens, after.cache_miss = piece.cached_tokens, piece.cache_miss
        return piece


class _NoText:
    """Without a tokenizer there is no text."""

    def push(self, ids: Sequence[int]) -> str:
        return ""

    def finish(self) -> str:
        return ""


def _detokenizer(text: TextService | None, skip_special_tokens: bool) -> Detokenizer:
    if text is None:
        return _NoText()
    return text.detokenizer(skip_special_tokens=skip_special_tokens)


def _take_prompt(piece: Piece, output: RequestOutput) -> None:
    """What an output tells beside its tokens."""
    piece.prompt_tokens = output.prompt_tokens or piece.prompt_tokens
    if output.cached_tokens > piece.cached_tokens:
        piece.cached_tokens = output.cached_tokens
    piece.cache_miss = output.cache_miss or piece.cache_miss
    if output.input_logprobs:
        piece.input_logprobs = [*(piece.input_logprobs or []), *output.input_logprobs]
    if output.hidden_states is not None:
        piece.hidden_states.append(output.hidden_states)
