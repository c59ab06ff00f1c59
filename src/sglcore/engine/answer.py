"""Answer: one branch's outputs gathered into what a caller in this process gets."""

from __future__ import annotations

import time
from typing import Any

from sglcore.contracts.services import TextService
from sglcore.engine.branch_text import BranchText
from sglcore.request import FinishReason, RequestOutput, SamplingParams, TokenLogprobs


class Answer:
    """Grows with each output; `result()` is the answer so far, shaped as `/generate` shapes it."""

    def __init__(self, rid: str, asked: SamplingParams, text: TextService | None, started: float) -> None:
        self._rid = rid
        self._branch = BranchText(0, 0, text, asked, 1)
        self._started = started
        self._text = ""
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._prompt_tokens = self._cached_tokens = 0
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
        self._prompt_tokens, self._cached_tokens = piece.prompt_tokens, piece.cached_tokens
        self.finish = piece.finish
        self._ended = time.perf_counter()
        return self.finish is not None and out.finish is None

    def result(self) -> dict[str, Any]:
        """{"text", "output_ids", "meta_info"}."""
        meta: dict[str, Any] = {
            "id": self._rid,
            "finish_reason": _reason(self.finish, len(self._ids)),
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": len(self._ids),
            "cached_tokens": self._cached_tokens,
            "e2e_latency": self._ended - self._started,
        }
        if self._logprobs:
            meta["output_token_logprobs"] = [[lp.logprob, lp.token_id, None] for lp in self._logprobs]
            if any(lp.top for lp in self._logprobs):
                tops = [[[value, token, None] for value, token in lp.top] for lp in self._logprobs]
                meta["output_top_logprobs"] = tops
        return {"text": self._text, "output_ids": list(self._ids), "meta_info": meta}


def _reason(finish: FinishReason | None, length: int) -> dict[str, Any] | None:
    if finish is None:
        return None
    if finish.type == "length":
        return {"type": "length", "length": length}
    if finish.type == "stop":
        return {"type": "stop", "matched": finish.matched}
    return {"type": finish.type, "message": finish.message}
