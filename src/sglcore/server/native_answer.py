"""How /generate writes its answers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from sglcore.engine.answer import hidden_shape
from sglcore.engine.branch_text import Piece
from sglcore.request import CACHE_MISSES, FinishReason, GenerateRequest, HiddenStates, TokenLogprobs
from sglcore.server.face import Face
from sglcore.server.schemas import NativeFields
from sglcore.server.sse import event

WEIGHT_VERSION = "default"


@dataclass(slots=True)
class Branch:
    """All that one branch has given so far; a native chunk repeats it whole."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    output_logprobs: list[TokenLogprobs] = field(default_factory=list)
    input_logprobs: list[TokenLogprobs] = field(default_factory=list)
    hidden: list[HiddenStates] = field(default_factory=list)
    last: Piece | None = None

    def take(self, piece: Piece) -> None:
        self.text += piece.text
        self.ids += piece.token_ids
        self.output_logprobs += piece.logprobs
        self.input_logprobs += piece.input_logprobs or []
        self.hidden += piece.hidden_states
        self.last = piece


class NativeAnswer:
    """Writes the answer: one object for a single prompt and branch, else a list, prompt by prompt."""

    def __init__(self, face: Face, fields: NativeFields, asks: list[GenerateRequest], single: bool) -> None:
        self.fields = fields
        self._face = face
        self._asks = asks
        self._single = single
        self._started = time.perf_counter()
        self._first = [sum(ask.n for ask in asks[:i]) for i in range(len(asks))]
        self._branches = [Branch() for ask in asks for _ in range(ask.n)]

    async def whole(self) -> Any:
        for pieces in await self._face.generation.collect(self._asks):
            for piece in pieces:
                self._branches[self._index(piece)].take(piece)
        asks = [ask for ask in self._asks for _ in range(ask.n)]
        bodies = [self._body(ask, branch) for ask, branch in zip(asks, self._branches, strict=True)]
        return bodies[0] if self._single else bodies

    async def events(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._face.generation.run(self._asks, stream=True)) as steps:
            async for pieces in steps:
                yield b"".join(self._event(piece) for piece in pieces)

    def _event(self, piece: Piece) -> bytes:
        index = self._index(piece)
        self._branches[index].take(piece)
        body = self._body(self._asks[piece.prompt], self._branches[index])
        return event(body if self._single else body | {"index": index})

    def _index(self, piece: Piece) -> int:
        return self._first[piece.prompt] + piece.branch

    def _body(self, ask: GenerateRequest, branch: Branch) -> dict[str, Any]:
        piece = branch.last
        meta: dict[str, Any] = {
            "id": ask.rid,
            "finish_reason": native_finish(piece.finish, len(branch.ids)) if piece and piece.finish else None,
            # of a session's request the engine knows how many there are
            "prompt_tokens": (piece.prompt_tokens if piece else 0) or len(ask.token_ids()),
            "completion_tokens": len(branch.ids),
            "cached_tokens": piece.cached_tokens if piece else 0,
            "cache_miss_reason": (CACHE_MISSES[piece.cache_miss] or None) if piece else None,
            "weight_version": WEIGHT_VERSION,
            "e2e_latency": time.perf_counter() - self._started,
        }
        if ask.return_logprob:
            meta |= self._logprobs(ask, branch)
        if ask.return_hidden_states and piece and piece.finish:
            meta["hidden_states"] = hidden_shape(branch.hidden, meta["prompt_tokens"])
        body: dict[str, Any] = {} if self._face.context.text is None else {"text": branch.text}
        return body | {"output_ids": branch.ids, "meta_info": meta}

    def _logprobs(self, ask: GenerateRequest, branch: Branch) -> dict[str, Any]:
        names, with_text = self._face.names, self.fields.return_text_in_logprobs
        shown: dict[str, Any] = {
            "input_token_logprobs": [names.native(one, with_text) for one in branch.input_logprobs],
            "output_token_logprobs": [names.native(one, with_text) for one in branch.output_logprobs],
        }
        if ask.top_logprobs:
            shown |= {
                "input_top_logprobs": [names.native_top(one, with_text) for one in branch.input_logprobs],
                "output_top_logprobs": [names.native_top(one, with_text) for one in branch.output_logprobs],
            }
        if ask.token_ids_logprob:
            shown |= {
                "input_token_ids_logprobs": [names.native_ids(one, with_text) for one in branch.input_logprobs],
                "output_token_ids_logprobs": [names.native_ids(one, with_text) for one in branch.output_logprobs],
            }
        return shown


def native_finish(finish: FinishReason, tokens: int) -> dict[str, Any]:
    """SGLang's finish_reason object."""
    if finish.type == "stop":
        return {"type": "stop", "matched": finish.matched}
    if finish.type == "length":
        return {"type": "length", "length": tokens}
    return {"type": finish.type, "message": finish.message or "Aborted.", "status_code": finish.status or None}
