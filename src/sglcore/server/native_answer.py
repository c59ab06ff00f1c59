"""How /generate writes its answers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sglcore.native.answer import BranchAnswer
from sglcore.request import GenerateRequest
from sglcore.server.face import Face
from sglcore.server.schemas import NativeFields
from sglcore.server.sse import event
from sglcore.text.branch_text import Piece


class NativeAnswer:
    """Writes the answer: one object for a single prompt and branch, else a list, prompt by prompt."""

    def __init__(self, face: Face, fields: NativeFields, asks: list[GenerateRequest], single: bool) -> None:
        self.fields = fields
        self._face = face
        self._asks = asks
        self._single = single
        self._started = time.perf_counter()
        self._first = [sum(ask.n for ask in asks[:i]) for i in range(len(asks))]
        version = face.settings.now.weight_version
        incremental = fields.stream and face.context.config.incremental_streaming_output
        self._branches = [
            BranchAnswer(incremental=incremental, weight_version=version) for ask in asks for _ in range(ask.n)
        ]

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

    def _body(self, ask: GenerateRequest, branch: BranchAnswer) -> dict[str, Any]:
        name = self._face.names.name if self.fields.return_text_in_logprobs else None
        return branch.body(ask, self._started, with_text=self._face.context.text is not None, name=name)
