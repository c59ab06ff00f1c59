"""SGLang's own dialect: POST /generate."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import RequestError
from sglcore.request import FinishReason, GenerateRequest, TokenLogprobs, pack_ids
from sglcore.server import absent
from sglcore.server.body import read_json
from sglcore.engine.branch_text import Piece
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face, namespace
from sglcore.server.generation import new_rid
from sglcore.server.params import sampling_params
from sglcore.server.prompts import is_batch
from sglcore.server.schemas import MAX_PROMPTS, NativeFields, NativeSampling, convert
from sglcore.server.sse import EventStream, event

DEFAULT_TOKENS = 128
WEIGHT_VERSION = "default"


def native_routes(face: Face) -> list[RouteEntry]:
    async def generate(request: Request) -> Response:
        fields = await read_json(request)
        absent.check_fields(fields, NativeFields.__struct_fields__, absent.NATIVE, face.metrics)
        answer = await prepare(face, convert(fields, NativeFields))
        if answer.fields.stream:
            return EventStream(answer.events())
        return json_response(await while_connected(request.receive, answer.whole()))

    return [RouteEntry("/generate", generate, ("POST", "PUT"), "user")]


async def prepare(face: Face, fields: NativeFields) -> NativeAnswer:
    """Check everything and spread lists over the prompts. Raises RequestError."""
    prompts, single = await _prompts(face, fields)
    count = len(prompts)
    rids = _rids(fields.rid, count, single)
    params = _spread(fields.sampling_params, count, "sampling_params")
    wants = _spread(fields.return_logprob, count, "return_logprob")
    starts = _spread(fields.logprob_start_len, count, "logprob_start_len")
    tops = _spread(fields.top_logprobs_num, count, "top_logprobs_num")
    separate = namespace(fields.cache_salt, fields.extra_key)
    asks = []
    for i, ids in enumerate(prompts):
        ask = _ask(face, ids, rids[i], params[i], "input_ids" if fields.text is None else "text")
        if wants[i]:
            start = _start(starts[i], len(ids))
            ask = msgspec.structs.replace(ask, return_logprob=True, logprob_start=start, top_logprobs=tops[i])
        asks.append(msgspec.structs.replace(ask, priority=fields.priority, namespace=separate))
    return NativeAnswer(face, fields, asks, single and asks[0].n == 1)


async def _prompts(face: Face, fields: NativeFields) -> tuple[list[list[int]], bool]:
    """Ids of each prompt, and whether the request was a single one."""
    if (fields.text is None) == (fields.input_ids is None):
        raise RequestError("Give either `text` or `input_ids`, not both and not neither.", param="text")
    if isinstance(fields.text, str):
        return [await face.prompts.encode(fields.text, "text")], True
    if fields.text is not None:
        _check_count(fields.text, "text")
        return [await face.prompts.encode(text, f"text[{i}]") for i, text in enumerate(fields.text)], False
    ids = fields.input_ids or []
    if not is_batch(ids):
        return [face.prompts.check_ids(ids, "input_ids")], True
    _check_count(ids, "input_ids")
    return [face.prompts.check_ids(one, f"input_ids[{i}]") for i, one in enumerate(ids)], False


def _check_count(prompts: list[Any], param: str) -> None:
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise RequestError(f"`{param}` holds {len(prompts)} prompts; 1 to {MAX_PROMPTS} are taken.", param=param)


def _spread(value: Any, count: int, param: str) -> list[Any]:
    """One value for each prompt: a list as it is, anything else repeated."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise RequestError(f"`{param}` has {len(value)} entries for {count} prompts.", param=param)
    return value


def _rids(rid: str | list[str] | None, count: int, single: bool) -> list[str]:
    if isinstance(rid, list):
        return _spread(rid, count, "rid")
    base = rid or new_rid()
    return [base] if single else [f"{base}_{i}" for i in range(count)]


def _start(start: int, prompt_tokens: int) -> int:
    if not -1 <= start < prompt_tokens:
        raise RequestError(
            f"`logprob_start_len` is {start}; it goes from -1 to {prompt_tokens - 1} for this prompt.",
            param="logprob_start_len",
        )
    return start


def _ask(face: Face, ids: list[int], rid: str, params: dict[str, Any], prompt: str) -> GenerateRequest:
    prefix = "sampling_params."
    params = {k: v for k, v in params.items() if v is not None}
    absent.check_fields(params, NativeSampling.__struct_fields__, absent.NATIVE_SAMPLING, face.metrics, prefix)
    asked = convert(params, NativeSampling, prefix)
    param = f"{prefix}max_new_tokens"
    room = face.prompts.fit(ids, asked.max_new_tokens, default=DEFAULT_TOKENS, prompt=prompt, param=param)
    if asked.stop:
        _ = face.prompts.text  # stop strings need a tokenizer
    sampling = sampling_params(asked, face.model, max_new_tokens=room, seed=asked.sampling_seed, prefix=prefix)
    return GenerateRequest(rid=rid, input_ids=pack_ids(ids), sampling=sampling, n=asked.n or 1)


@dataclass(slots=True)
class Branch:
    """All that one branch has given so far; a native chunk repeats it whole."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    output_logprobs: list[TokenLogprobs] = field(default_factory=list)
    input_logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: Piece | None = None

    def take(self, piece: Piece) -> None:
        self.text += piece.text
        self.ids += piece.token_ids
        self.output_logprobs += piece.logprobs
        self.input_logprobs += piece.input_logprobs or []
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
        meta = {
            "id": ask.rid,
            "finish_reason": native_finish(piece.finish, len(branch.ids)) if piece and piece.finish else None,
            "prompt_tokens": len(ask.token_ids()),
            "completion_tokens": len(branch.ids),
            "cached_tokens": piece.cached_tokens if piece else 0,
            "weight_version": WEIGHT_VERSION,
            "e2e_latency": time.perf_counter() - self._started,
        }
        if ask.return_logprob:
            meta |= self._logprobs(ask, branch)
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
        return shown


def native_finish(finish: FinishReason, tokens: int) -> dict[str, Any]:
    """SGLang's finish_reason object."""
    if finish.type == "stop":
        return {"type": "stop", "matched": finish.matched}
    if finish.type == "length":
        return {"type": "length", "length": tokens}
    return {"type": finish.type, "message": finish.message or "Aborted.", "status_code": finish.status or None}
