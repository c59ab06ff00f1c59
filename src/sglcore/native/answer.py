"""How the native dialect writes its answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sglcore.request import CACHE_MISSES, FinishReason, GenerateRequest, HiddenStates, TokenLogprobs
from sglcore.text.answer import hidden_shape
from sglcore.text.branch_text import Piece

WEIGHT_VERSION = "default"
LOWEST = -9999.0  # stands for log 0, which JSON cannot say

Name = Callable[[int], str]


@dataclass(slots=True)
class BranchAnswer:
    """All that one branch has given so far; a chunk repeats it whole, or with `incremental` tells what is new."""

    text: str = ""
    incremental: bool = False
    weight_version: str = WEIGHT_VERSION
    tokens: int = 0
    ids: list[int] = field(default_factory=list)
    output_logprobs: list[TokenLogprobs] = field(default_factory=list)
    input_logprobs: list[TokenLogprobs] = field(default_factory=list)
    hidden: list[HiddenStates] = field(default_factory=list)
    last: Piece | None = None

    def take(self, piece: Piece) -> None:
        """Add what is new."""
        if self.incremental:
            self.text, self.ids, self.output_logprobs, self.input_logprobs = "", [], [], []
        self.tokens += len(piece.token_ids)
        self.text += piece.text
        self.ids += piece.token_ids
        self.output_logprobs += piece.logprobs
        self.input_logprobs += piece.input_logprobs or []
        self.hidden += piece.hidden_states
        self.last = piece

    def body(self, ask: GenerateRequest, started: float, *, with_text: bool, name: Name | None) -> dict[str, Any]:
        """{"text", "output_ids", "meta_info"}; without the text where there is no tokenizer.

        started: `time.perf_counter()` of the call. name: gives a token's text, where logprobs are to show it. The
        lists are this object's own, which grow.
        """
        piece = self.last
        meta: dict[str, Any] = {
            "id": ask.rid,
            "finish_reason": finish_reason(piece.finish, self.tokens) if piece and piece.finish else None,
            # of a session's request the engine knows how many there are
            "prompt_tokens": (piece.prompt_tokens if piece else 0) or len(ask.token_ids()),
            "completion_tokens": self.tokens,
            "cached_tokens": piece.cached_tokens if piece else 0,
            "cache_miss_reason": (CACHE_MISSES[piece.cache_miss] or None) if piece else None,
            "weight_version": self.weight_version,
            "e2e_latency": time.perf_counter() - started,
        }
        if ask.return_logprob:
            meta |= self._logprobs(ask, name)
        if ask.return_hidden_states and piece and piece.finish:
            meta["hidden_states"] = hidden_shape(self.hidden, meta["prompt_tokens"])
        body: dict[str, Any] = {"text": self.text} if with_text else {}
        return body | {"output_ids": self.ids, "meta_info": meta}

    def _logprobs(self, ask: GenerateRequest, name: Name | None) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for side, given in (("input", self.input_logprobs), ("output", self.output_logprobs)):
            shown[f"{side}_token_logprobs"] = [_triple(one.logprob, one.token_id, name) for one in given]
            if ask.top_logprobs:
                shown[f"{side}_top_logprobs"] = [_triples(one, one.top, name) for one in given]
            if ask.token_ids_logprob:
                shown[f"{side}_token_ids_logprobs"] = [_triples(one, one.ids, name) for one in given]
        return shown


def finish_reason(finish: FinishReason, tokens: int) -> dict[str, Any]:
    """SGLang's finish_reason object."""
    if finish.type == "stop":
        return {"type": "stop", "matched": finish.matched}
    if finish.type == "length":
        return {"type": "length", "length": tokens}
    return {"type": finish.type, "message": finish.message or "Aborted.", "status_code": finish.status or None}


def clamp(logprob: float | None) -> float | None:
    """Infinity as a number that JSON has."""
    return None if logprob is None else max(logprob, LOWEST)


def _triple(logprob: float | None, token_id: int, name: Name | None) -> list[Any]:
    """SGLang's [logprob, id, text or null]."""
    return [clamp(logprob), token_id, name(token_id) if name else None]


def _triples(one: TokenLogprobs, pairs: list[tuple[float, int]], name: Name | None) -> list[list[Any]] | None:
    if one.logprob is None:  # the first token of a prompt has no predecessor
        return None
    return [_triple(logprob, token_id, name) for logprob, token_id in pairs]
