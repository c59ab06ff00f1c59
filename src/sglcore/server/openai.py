"""OpenAI's dialect: the model list, and what its two generation endpoints share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import ModelInfo, RouteEntry
from sglcore.engine.sampling import check_ids, sampling_params
from sglcore.errors import RequestError
from sglcore.native.asks import namespace, session_params
from sglcore.request import FinishReason, GenerateRequest, SamplingParams, pack_ids
from sglcore.server.absent import unsupported
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openapi_openai import OPENAI, ModelCard, ModelList
from sglcore.server.openapi_shapes import fetched
from sglcore.server.schemas import OpenAIFields


def unix_now() -> int:
    return int(time.time())


def check_model(model: ModelInfo, asked: str | None) -> None:
    """Raises RequestError 404 for a model this server does not have, 400 for `model:adapter`."""
    if not asked or asked in (model.name, model.path, "default"):
        return
    if asked.startswith((f"{model.name}:", f"{model.path}:")):
        raise unsupported("model", "adapters (LoRA)")
    raise RequestError(
        f"The model {asked[:200]!r} does not exist here.",
        param="model",
        code="model_not_found",
        status=404,
        remedy=f"This server has {model.name!r}.",
    )


def sampling_of(face: Face, fields: OpenAIFields, room: int) -> SamplingParams:
    """How to sample, `room` tokens at most. Raises RequestError."""
    face.check_processor(fields.custom_logit_processor, fields.custom_params)
    return sampling_params(
        fields,
        face.model.sampling_defaults,
        face.model.vocab_size,
        max_new_tokens=room,
        min_new_tokens=fields.min_tokens,
        seed=fields.seed,
        processor=fields.custom_logit_processor,
        minimum="min_tokens",
    )


def check_extras(face: Face, fields: OpenAIFields) -> None:
    """What the fields of SGLang's own need of each other. Raises RequestError."""
    if fields.token_ids_logprob:
        if not fields.return_meta_info:
            raise RequestError(
                "`token_ids_logprob` needs `return_meta_info` true, where its logprobs are shown.",
                param="token_ids_logprob",
                remedy="Set it.",
            )
        check_ids(fields.token_ids_logprob, face.model.vocab_size, "token_ids_logprob")


def to_ask(
    fields: OpenAIFields, ids: list[int], rid: str, sampling: SamplingParams, *, top: int | None, start: int = -1
) -> GenerateRequest:
    """The engine's request. `top` None asks for no logprobs; `start` 0 asks for the prompt's as well."""
    tokens = tuple(fields.token_ids_logprob or ())
    return GenerateRequest(
        rid=rid,
        input_ids=pack_ids(ids),
        sampling=sampling,
        n=fields.n or 1,
        return_logprob=top is not None or bool(tokens),
        logprob_start=start,
        top_logprobs=top or 0,
        token_ids_logprob=tokens,
        return_hidden_states=fields.return_hidden_states,
        namespace=namespace(fields.cache_salt, fields.extra_key),
        tenant=fields.tenant,
        priority=fields.priority,
        timeout=fields.timeout,
        session=session_params(fields.session_params),
    )


def finish_fields(finish: FinishReason | None) -> dict[str, Any]:
    if finish is None:
        return {"finish_reason": None, "matched_stop": None}
    return {"finish_reason": finish.type, "matched_stop": finish.matched}


def openai_body(kind: str, rid: str, created: int, model: ModelInfo, choices: Sequence[Any]) -> dict[str, Any]:
    """The envelope of every answer and chunk."""
    return {"id": rid, "object": kind, "created": created, "model": model.name, "choices": choices}


def model_routes(face: Face) -> list[RouteEntry]:
    model = face.model

    def card() -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "sglcore",
            "root": model.path,
            "parent": None,
            "max_model_len": model.context_length,
        }

    async def list_models(_: Request) -> Response:
        return json_response({"object": "list", "data": [card()]})

    async def get_model(request: Request) -> Response:
        check_model(model, request.path_params["model_id"])
        return json_response(card())

    return [
        RouteEntry("/v1/models", list_models, ("GET",), "user", doc=fetched(OPENAI, "The models", ModelList)),
        RouteEntry(
            "/v1/models/{model_id:path}",
            get_model,
            ("GET",),
            "user",
            doc=fetched(OPENAI, "A model", ModelCard, refusals=(400,)),
        ),
    ]
