"""One branch's tokens on their way to text: detokenizing, stop strings, end of text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sglcore.contracts.services import Detokenizer, TextService
from sglcore.request import FinishReason, HiddenStates, RequestOutput, SamplingParams, TokenLogprobs
from sglcore.text.detokenize import StopStrings
from sglcore.text.stop_regex import StopRegex


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
    hidden_states: list[HiddenStates] = field(default_factory=list)
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

    def advance(self, output: RequestOutput) -> Piece | None:
        """Take what one step delivered; None while there is nothing to pass on."""
        if self.done:
            return None
        piece = self._piece
        piece.prompt_tokens = output.prompt_tokens or piece.prompt_tokens
        piece.cached_tokens = max(piece.cached_tokens, output.cached_tokens)
        piece.cache_miss = output.cache_miss or piece.cache_miss
        if output.input_logprobs:
            piece.input_logprobs = [*(piece.input_logprobs or []), *output.input_logprobs]
        if output.hidden_states is not None:
            piece.hidden_states.append(output.hidden_states)
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
        text = self._cut(self._detokenizer.push(ids))
        if output.finish is not None and not self._matched:
            text += self._cut(self._detokenizer.finish())
        if (output.finish is not None or self._matched) and self._stops.matched is None:
            text += self._stops.finish()
        return text

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
        self._piece = Piece(
            piece.prompt,
            piece.branch,
            completion_tokens=piece.completion_tokens,
            prompt_tokens=piece.prompt_tokens,
            cached_tokens=piece.cached_tokens,
            cache_miss=piece.cache_miss,
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
    return text.detokenizer(skip_special_tokens=skip_special_tokens)
