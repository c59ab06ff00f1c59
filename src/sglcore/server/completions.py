"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import RequestError
from sglcore.request import GenerateRequest, TokenLogprobs
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.completion_templates import filled
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.generation import new_rid
from sglcore.server.openai import check_extras, check_model, finish_fields, openai_body, sampling_of, to_ask, unix_now
from sglcore.server.openai_extras import Extras
from sglcore.server.openapi_openai import ONCE, OPENAI, Completion, CompletionChunk
from sglcore.server.openapi_shapes import ASKING, posted
from sglcore.server.prompts import is_batch
from sglcore.server.schemas import CompletionFields, convert
from sglcore.server.sse import EventStream, Frame, event
from sglcore.server.usage import Usage
from sglcore.text.branch_text import Piece

DEFAULT_TOKENS = 16


def completion_routes(face: Face) -> list[RouteEntry]:
    async def completions(request: Request) -> Response:
        asked, asks = await prepare_completions(face, await read_ask(request))
        answer = CompletionAnswer(face, asked, asks)
        if asked.stream:
            return EventStream(answer.events())
        return json_response(await while_connected(request.receive, answer.whole()))

    doc = posted(
        OPENAI, "Complete a text", CompletionFields, Completion, event=CompletionChunk, example=ONCE, refusals=ASKING
    )
    return [RouteEntry("/v1/completions", completions, ("POST",), "user", doc=doc)]


async def prepare_completions(
    face: Face, fields: dict[str, Any], prefix: str = "cmpl-"
) -> tuple[CompletionFields, list[GenerateRequest]]:
    """From a body to what the engine is asked, one request a prompt; `prefix` begins the id of one that brings none.

    Raises RequestError.
    """
    absent.check_fields(fields, CompletionFields.__struct_fields__, absent.COMPLETION, face.metrics)
    asked = convert(fields, CompletionFields)
    check_model(face.model, asked.model)
    _ = face.prompts.text  # raises where there is no tokenizer
    check_extras(face, asked)
    prompts = await _prompt_ids(face, _with_suffix(face, asked))
    if asked.max_tokens == 0 and not asked.echo:
        raise RequestError("`max_tokens` must be at least 1 without `echo`; it is 0.", param="max_tokens")
    rid = asked.rid or new_rid(prefix)
    asks = []
    for i, ids in enumerate(prompts):
        room = face.prompts.fit(ids, asked.max_tokens, default=DEFAULT_TOKENS, prompt="prompt", param="max_tokens")
        sampling = sampling_of(face, asked, room)
        start = 0 if asked.echo and asked.logprobs is not None else -1
        name = rid if len(prompts) == 1 else f"{rid}_{i}"
        asks.append(to_ask(asked, ids, name, sampling, top=asked.logprobs, start=start))
    return asked, asks


def _with_suffix(face: Face, asked: CompletionFields) -> str | list[Any]:
    if not asked.suffix:
        return asked.prompt
    if isinstance(asked.prompt, list) and is_batch(asked.prompt):
        return [filled(face.fim, prompt, asked.suffix) for prompt in asked.prompt]
    return filled(face.fim, asked.prompt, asked.suffix)


async def _prompt_ids(face: Face, prompt: str | list[Any]) -> list[list[int]]:
    if isinstance(prompt, str):
        return [await face.prompts.encode(prompt, "prompt")]
    if not is_batch(prompt):
        return [face.prompts.check_ids(prompt, "prompt")]
    return await face.prompts.ids_of(prompt, "prompt")


class CompletionAnswer:
    """Writes the answer of one completion request, whole or in chunks. Choices go prompt by prompt."""

    def __init__(self, face: Face, asked: CompletionFields, asks: list[GenerateRequest]) -> None:
        self._face = face
        self._asked = asked
        self._asks = asks
        self._rid = asks[0].rid if len(asks) == 1 else asks[0].rid.rpartition("_")[0]
        self._created = unix_now()
        tokens = [len(ask.token_ids()) for ask in asks]
        self._usage = Usage(tokens, cached_details=asked.return_cached_tokens_details)
        self._extras = Extras(asked, asks, face.settings.now.weight_version)
        self._offsets: dict[int, int] = {}  # choice -> characters of its tokens so far
        self._begun: set[int] = set()
        options = asked.stream_options
        shown = asked.logprobs is not None or asked.return_token_ids
        shown = shown or asked.return_meta_info or asked.return_hidden_states
        self._bare = not (shown or (options and options.continuous_usage_stats))
        self._frames: dict[int, Frame] = {}
        self._prompt_logprobs: dict[int, list[TokenLogprobs]] = {}

    async def whole(self) -> dict[str, Any]:
        branches = await self._face.generation.collect(self._asks)
        choices = [self._choice(piece) for pieces in branches for piece in pieces]
        return self._body(choices) | {"usage": self._usage.body()} | self._extras.body()

    async def events(self) -> AsyncGenerator[bytes, None]:
        options = self._asked.stream_options
        async with aclosing(self._face.generation.run(self._asks, stream=True)) as steps:
            async for pieces in steps:
                chunks = [self._event(piece) for piece in pieces if self._visible(piece)]
                if chunks:
                    yield b"".join(chunks)
        if options and options.include_usage:
            yield event(self._body([]) | {"usage": self._usage.body()})

    def _event(self, piece: Piece) -> bytes:
        if not self._bare or piece.finish is not None or self._is_new(piece):
            return event(self._chunk(piece))
        index = self._index(piece)
        frame = self._frames.get(index)
        if frame is None:
            mark = new_rid("mark-")
            frame = self._frames[index] = Frame(self._chunk(Piece(piece.prompt, piece.branch, mark), seen=True), mark)
        return frame.event(piece.text)

    def _chunk(self, piece: Piece, *, seen: bool = False) -> dict[str, Any]:
        body = self._body([self._choice(piece, seen)]) | self._extras.chunk()
        options = self._asked.stream_options
        if options and options.continuous_usage_stats:
            return body | {"usage": self._usage.body()}
        return body | ({"usage": None} if options and options.include_usage else {})

    def _choice(self, piece: Piece, seen: bool = False) -> dict[str, Any]:
        if not seen:
            self._usage.see(piece)
            self._extras.see(piece)
        text, logprobs = piece.text, piece.logprobs
        if piece.input_logprobs:
            self._prompt_logprobs[piece.prompt] = piece.input_logprobs
        prompt = self._extras.prompt(piece.prompt) if self._is_new(piece) else {}
        if self._asked.echo and self._is_new(piece):
            text = self._prompt_text(piece.prompt) + text
            logprobs = [*self._prompt_logprobs.get(piece.prompt, []), *logprobs]
        self._begun.add(self._index(piece))
        return {
            "index": self._index(piece),
            "text": text,
            "logprobs": self._logprobs(self._index(piece), logprobs),
            **finish_fields(piece.finish),
            **prompt,
            **self._extras.tokens(piece),
            **self._extras.end(piece),
        }

    def _logprobs(self, index: int, logprobs: list[TokenLogprobs]) -> dict[str, Any] | None:
        if self._asked.logprobs is None:
            return None
        shown = self._face.names.completion(logprobs, self._asked.logprobs, self._offsets.get(index, 0))
        if shown["tokens"]:
            self._offsets[index] = shown["text_offset"][-1] + len(shown["tokens"][-1])
        return shown

    def _prompt_text(self, prompt: int) -> str:
        asked = self._asked.prompt
        text = asked if isinstance(asked, str) else asked[prompt] if is_batch(asked) else asked
        return text if isinstance(text, str) else self._face.prompts.text.decode(text, skip_special_tokens=False)

    def _is_new(self, piece: Piece) -> bool:
        return self._index(piece) not in self._begun

    def _index(self, piece: Piece) -> int:
        return piece.prompt * (self._asked.n or 1) + piece.branch

    def _body(self, choices: list[Any]) -> dict[str, Any]:
        return openai_body("text_completion", self._rid, self._created, self._face.model, choices)

    def _visible(self, piece: Piece) -> bool:
        tokens = self._asked.return_token_ids and bool(piece.token_ids)
        return bool(piece.text or piece.logprobs or piece.finish or tokens) or self._is_new(piece)
