"""SGLang's own dialect: POST /generate."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.engine.sampling import (
    DEFAULT_TOKENS,
    MAX_LOGPROB_IDS,
    NativeSampling,
    check_ids,
    sampling_params,
)
from sglcore.errors import RequestError
from sglcore.request import GenerateRequest, pack_ids
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face, namespace
from sglcore.server.generation import new_rid
from sglcore.server.native_answer import NativeAnswer
from sglcore.server.prompts import is_batch
from sglcore.server.schemas import NativeFields, convert
from sglcore.server.sessions import session_params
from sglcore.server.sse import EventStream


def native_routes(face: Face) -> list[RouteEntry]:
    async def generate(request: Request) -> Response:
        fields = await read_ask(request)
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
    tokens = _logprob_ids(face, fields.token_ids_logprob, count)
    hidden = _spread(fields.return_hidden_states, count, "return_hidden_states")
    processors = _spread(fields.custom_logit_processor, count, "custom_logit_processor")
    common = {
        "namespace": namespace(fields.cache_salt, fields.extra_key),
        "tenant": fields.tenant,
        "priority": fields.priority,
        "timeout": fields.timeout,
        "session": session_params(fields.session_params),
    }
    asks = []
    for i, ids in enumerate(prompts):
        ask = _ask(face, ids, rids[i], params[i], "input_ids" if fields.text is None else "text", processors[i])
        if wants[i]:
            start = _start(starts[i], len(ids))
            ask = msgspec.structs.replace(
                ask, return_logprob=True, logprob_start=start, top_logprobs=tops[i], token_ids_logprob=tokens[i]
            )
        ask = msgspec.structs.replace(ask, return_hidden_states=hidden[i])
        asks.append(msgspec.structs.replace(ask, **common))
    return NativeAnswer(face, fields, asks, single and asks[0].n == 1)


async def _prompts(face: Face, fields: NativeFields) -> tuple[list[list[int]], bool]:
    """Ids of each prompt, and whether the request was a single one."""
    if (fields.text is None) == (fields.input_ids is None):
        raise RequestError("Give either `text` or `input_ids`, not both and not neither.", param="text")
    if isinstance(fields.text, str):
        continues = fields.session_params is not None and fields.session_params.rid is not None
        return [await face.prompts.encode(fields.text, "text", add_special_tokens=not continues)], True
    if fields.text is not None:
        return await face.prompts.ids_of(fields.text, "text"), False
    ids = fields.input_ids or []
    if not is_batch(ids):
        return [face.prompts.check_ids(ids, "input_ids")], True
    return await face.prompts.ids_of(ids, "input_ids"), False


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


def _logprob_ids(face: Face, given: list[Any] | None, count: int) -> list[tuple[int, ...]]:
    """One list of token ids for each prompt: `given` holds ids, which all prompts share, or lists of them."""
    shared = not any(isinstance(one, list) for one in given or ())
    lists = [given or []] * count if shared else _spread(given, count, "token_ids_logprob")
    for ids in lists if not shared else lists[:1]:
        if any(type(i) is not int for i in ids or ()):
            raise RequestError(
                "`token_ids_logprob` must be a list of token ids, or one list for each prompt.",
                param="token_ids_logprob",
            )
        if len(ids or ()) > MAX_LOGPROB_IDS:
            raise RequestError(
                f"`token_ids_logprob` has {len(ids)} token ids, more than {MAX_LOGPROB_IDS}.",
                param="token_ids_logprob",
            )
        check_ids(ids or (), face.model.vocab_size, "token_ids_logprob")
    return [tuple(ids or ()) for ids in lists]


def _ask(
    face: Face, ids: list[int], rid: str, params: dict[str, Any], prompt: str, processor: str | None
) -> GenerateRequest:
    prefix = "sampling_params."
    params = {k: v for k, v in params.items() if v is not None}
    absent.check_fields(params, NativeSampling.__struct_fields__, absent.NATIVE_SAMPLING, face.metrics, prefix)
    asked = convert(params, NativeSampling, prefix)
    param = f"{prefix}max_new_tokens"
    room = face.prompts.fit(ids, asked.max_new_tokens, default=DEFAULT_TOKENS, prompt=prompt, param=param)
    if asked.stop or asked.stop_regex:
        _ = face.prompts.text  # what looks at text needs a tokenizer
    sampling = sampling_params(
        asked,
        face.model.sampling_defaults,
        face.model.vocab_size,
        max_new_tokens=room,
        min_new_tokens=asked.min_new_tokens,
        seed=asked.sampling_seed,
        processor=processor,
        prefix=prefix,
    )
    face.check_processor(processor, asked.custom_params, prefix)
    return GenerateRequest(rid=rid, input_ids=pack_ids(ids), sampling=sampling, n=asked.n or 1)
