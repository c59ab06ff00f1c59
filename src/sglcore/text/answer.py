"""Answer: one branch's outputs gathered into what a caller in this process gets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sglcore.contracts.services import TextService
from sglcore.request import CACHE_MISSES, FinishReason, GenerateRequest, HiddenStates, RequestOutput, TokenLogprobs
from sglcore.text.branch_text import BranchText


class Answer:
    """Grows with each output; `result()` is the answer so far, shaped as `/generate` shapes it."""

    def __init__(self, ask: GenerateRequest, text: TextService | None, started: float) -> None:
        self._ask = ask
        self._branch = BranchText(0, 0, text, ask.sampling, 1)
        self._started = started
        self._text = ""
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._input_logprobs: list[TokenLogprobs] = []
        self._hidden: list[HiddenStates] = []
        self._prompt_tokens = self._cached_tokens = self._cache_miss = 0
        self._ended = 0.0
        self.finish: FinishReason | None = None

    def take(self, out: RequestOutput) -> bool:
        """Add one output; True if a stop string ended the branch here while the engine would go on."""
        if self.finish is not None:
            return False
        piece = self._branch.advance(out)
        if piece is None:
            return False
        self._text += piece.text
        self._ids += piece.token_ids
        self._logprobs += piece.logprobs
        self._input_logprobs += piece.input_logprobs or []
        self._hidden += piece.hidden_states
        self._prompt_tokens, self._cached_tokens = piece.prompt_tokens, piece.cached_tokens
        self._cache_miss = piece.cache_miss
        self.finish = piece.finish
        self._ended = time.perf_counter()
        return self.finish is not None and out.finish is None

    def result(self) -> dict[str, Any]:
        """{"text", "output_ids", "meta_info"}."""
        meta: dict[str, Any] = {
            "id": self._ask.rid,
            "finish_reason": _reason(self.finish, len(self._ids)),
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": len(self._ids),
            "cached_tokens": self._cached_tokens,
            "cache_miss_reason": CACHE_MISSES[self._cache_miss] or None,
            "e2e_latency": self._ended - self._started,
        }
        if self._ask.return_logprob:
            meta |= self._shown("output", self._logprobs) | self._shown("input", self._input_logprobs)
        if self._ask.return_hidden_states and self.finish is not None:
            meta["hidden_states"] = hidden_shape(self._hidden, self._prompt_tokens)
        return {"text": self._text, "output_ids": list(self._ids), "meta_info": meta}

    def _shown(self, which: str, logprobs: list[TokenLogprobs]) -> dict[str, Any]:
        """One side's logprobs, as lists of [logprob, id, null]."""
        shown: dict[str, Any] = {f"{which}_token_logprobs": [[lp.logprob, lp.token_id, None] for lp in logprobs]}
        if self._ask.top_logprobs:
            shown[f"{which}_top_logprobs"] = [_pairs(lp, lp.top) for lp in logprobs]
        if self._ask.token_ids_logprob:
            shown[f"{which}_token_ids_logprobs"] = [_pairs(lp, lp.ids) for lp in logprobs]
        return shown


def _pairs(one: TokenLogprobs, pairs: list[tuple[float, int]]) -> list[list[Any]] | None:
    return None if one.logprob is None else [[value, token, None] for value, token in pairs]


def hidden_shape(parts: Sequence[HiddenStates], prompt_tokens: int) -> list[Any]:
    """SGLang's shape: one list of vectors for the whole prompt, then a vector for each further token computed."""
    vectors = [vector for part in parts for vector in part.array().tolist()]
    return [vectors[:prompt_tokens], *vectors[prompt_tokens:]]


def _reason(finish: FinishReason | None, length: int) -> dict[str, Any] | None:
    if finish is None:
        return None
    if finish.type == "length":
        return {"type": "length", "length": length}
    if finish.type == "stop":
        return {"type": "stop", "matched": finish.matched}
    return {"type": finish.type, "message": finish.message}
