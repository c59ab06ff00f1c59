"""Turns: ChatService for dialects of plugins, over the code that /v1/chat/completions and /v1/completions use."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from sglcore.contracts.services import Turn, TurnEnd
from sglcore.errors import RequestError
from sglcore.request import FinishReason, GenerateRequest, TokenLogprobs
from sglcore.server.branch_events import branches_of
from sglcore.server.branch_parser import Parsing
from sglcore.server.chat import chat_routes, prepare_chat, prompt_ids
from sglcore.server.completions import completion_routes, prepare_completions
from sglcore.server.face import Face
from sglcore.server.usage import Usage
from sglcore.text.branch_text import Piece

Events = list[Any]
UNTOLD = ("stream", "stream_options", "logprobs", "top_logprobs")  # fields of which no event tells


class Turns:
    """Implements `contracts.services.ChatService`."""

    def __init__(self, face: Face) -> None:
        self._face = face

    async def begin(self, body: dict[str, Any]) -> Turn:
        """See ChatService."""
        chat = await prepare_chat(self._face, _single(body))
        return OneTurn(self._face, chat.ask, chat.parsing)

    async def complete(self, body: dict[str, Any]) -> Turn:
        """See ChatService."""
        _, asks = await prepare_completions(self._face, _single(body))
        if len(asks) != 1:
            raise RequestError(f"`prompt` holds {len(asks)} prompts; one is taken here.", param="prompt")
        return OneTurn(self._face, asks[0], Parsing())

    async def count(self, body: dict[str, Any]) -> int:
        """See ChatService."""
        return len(await prompt_ids(self._face, body))

    async def openai(self, request: Request, path: str, body: dict[str, Any]) -> Response:
        """See ChatService."""
        for entry in (*chat_routes(self._face), *completion_routes(self._face)):
            if entry.path == path:
                response: Response = await entry.endpoint(_with_body(request, body))
                return response
        raise RequestError(f"OpenAI's dialect has no {path} for other dialects.", status=404)


def _with_body(request: Request, body: dict[str, Any]) -> Request:
    """The same request with another body, as if it had just come."""
    sent = [{"type": "http.request", "body": msgspec.json.encode(body), "more_body": False}]

    async def receive() -> Message:
        return sent.pop() if sent else await request.receive()

    return Request(request.scope, receive)


def _single(body: dict[str, Any]) -> dict[str, Any]:
    if body.get("n", 1) != 1:
        raise RequestError("`n` must be 1 here.", param="n", remedy="Send several requests.")
    return {name: value for name, value in body.items() if name not in UNTOLD and value is not None}


class OneTurn:
    """Implements `contracts.services.Turn`. Used once. usage: the counts so far."""

    def __init__(self, face: Face, ask: GenerateRequest, parsing: Parsing) -> None:
        self.rid = ask.rid
        self.prompt_tokens = len(ask.token_ids())
        self.usage = Usage([self.prompt_tokens])
        self._logprobs: list[TokenLogprobs] = []
        self._face = face
        self._ask = ask
        self._parsing = parsing
        (self._branch,) = branches_of(parsing, 1)

    def take_logprobs(self) -> list[TokenLogprobs]:
        """Those of the tokens that came since it was last asked; none where none were asked for."""
        taken, self._logprobs = self._logprobs, []
        return taken

    async def events(self, *, stream: bool = True) -> AsyncGenerator[Events, None]:
        """See Turn."""
        if not stream:
            ((piece,),) = await self._face.generation.collect([self._ask])
            self._logprobs += piece.logprobs
            yield [*self._branch.whole(piece), await self._end(piece, piece.finish)]
            return
        async with aclosing(self._face.generation.run([self._ask], stream=True)) as steps:
            async for pieces in steps:
                for piece in pieces:
                    events = self._taken(piece)
                    if piece.finish is not None:
                        events.append(await self._end(piece, piece.finish))
                    if events:
                        yield events

    def _taken(self, piece: Piece) -> Events:
        self.usage.see(piece)
        self._logprobs += piece.logprobs
        return self._branch.take(piece)

    async def _end(self, piece: Piece, finish: FinishReason | None) -> TurnEnd:
        finish = finish or FinishReason("abort")
        self.usage.see(piece)
        if self._parsing.reasoning is not None:
            self.usage.reasoning = await self._face.prompts.count(["".join(self._branch.thought)])
        return TurnEnd(
            reason=self._branch.reason(finish),
            matched=finish.matched,
            message=finish.message,
            prompt_tokens=self.usage.prompt,
            completion_tokens=self.usage.completion,
            cached_tokens=self.usage.cached,
            reasoning_tokens=self.usage.reasoning,
            warnings=self._branch.warnings,
        )
