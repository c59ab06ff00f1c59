"""How likely a model finds some tokens next: what /v1/score and /v1/rerank are made of, and POST /v1/score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.engine.sampling import MAX_LOGPROB_IDS, Id, check_ids
from sglcore.errors import RequestError
from sglcore.native.asks import namespace
from sglcore.native.fields import Priority, Salt, Timeout
from sglcore.request import GenerateRequest, SamplingParams, pack_ids
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.generation import new_rid
from sglcore.server.openai import check_model
from sglcore.server.openapi_openai import OPENAI, SCORE, Scores
from sglcore.server.openapi_shapes import ASKING, posted
from sglcore.server.prompts import check_joined
from sglcore.server.schemas import MAX_PROMPTS, convert
from sglcore.server.usage import Usage

# Greedy has temperature 1 and no penalties: its logprobs are the model's own.
ONE_TOKEN = SamplingParams(max_new_tokens=1, temperature=0.0)


class JudgeFields(msgspec.Struct, kw_only=True):
    """What /v1/score and /v1/rerank share."""

    model: Annotated[str, Meta(max_length=4096)] | None = None
    cache_salt: Salt = ""
    extra_key: Salt = ""
    tenant: Salt = ""
    priority: Priority | None = None
    timeout: Timeout | None = None


class ScoreFields(JudgeFields, kw_only=True):
    query: str | list[Any]
    items: str | list[Any]
    label_token_ids: Annotated[list[Id], Meta(min_length=1, max_length=MAX_LOGPROB_IDS)]
    apply_softmax: bool = False
    item_first: bool = False


def score_routes(face: Face) -> list[RouteEntry]:
    async def score(request: Request) -> Response:
        fields = await read_ask(request)
        absent.check_fields(fields, ScoreFields.__struct_fields__, {}, face.metrics)
        asked = convert(fields, ScoreFields)
        check_model(face.model, asked.model)
        check_ids(asked.label_token_ids, face.model.vocab_size, "label_token_ids")
        prompts = await _prompts(face, asked)
        work = next_logprobs(face, asked, prompts, asked.label_token_ids, "items")
        found, usage = await while_connected(request.receive, work)
        scores = [softmax(row) if asked.apply_softmax else [math.exp(value) for value in row] for row in found]
        body = {"object": "scoring", "scores": scores, "model": face.model.name, "usage": usage.body()}
        return json_response(body)

    doc = posted(OPENAI, "How likely some tokens follow", ScoreFields, Scores, example=SCORE, refusals=ASKING)
    return [RouteEntry("/v1/score", score, ("POST",), "user", doc=doc)]


async def _prompts(face: Face, asked: ScoreFields) -> list[list[int]]:
    """Query and item in their order, texts joined before they are encoded."""
    items = [asked.items] if isinstance(asked.items, str) else asked.items
    if not 1 <= len(items) <= MAX_PROMPTS:
        raise RequestError(f"`items` holds {len(items)} items; 1 to {MAX_PROMPTS} are taken.", param="items")
    query: Any = asked.query
    if not all(isinstance(item, str if isinstance(query, str) else list) for item in items):
        raise RequestError("`query` and `items` must be texts, or all be lists of token ids.", param="items")
    if not isinstance(query, str):
        for ids, where in ((query, "query"), *((item, f"items[{i}]") for i, item in enumerate(items))):
            face.prompts.check_ids(ids, where)
    check_joined(query, items, "items")
    joined = [item + query if asked.item_first else query + item for item in items]
    return await face.prompts.ids_of(joined, "items")


async def next_logprobs(
    face: Face, asked: JudgeFields, prompts: Sequence[list[int]], labels: Sequence[int], param: str
) -> tuple[list[list[float]], Usage]:
    """For each prompt the logprob of each label as its next token; nothing is sampled by the caller's taste.

    `param` names the prompts' field in errors. Raises RequestError.
    """
    rid = new_rid("score-")
    for i, ids in enumerate(prompts):
        face.prompts.fit(ids, 1, default=1, prompt=f"{param}[{i}]", param=param)
    asks = [
        GenerateRequest(
            rid=f"{rid}_{i}",
            input_ids=pack_ids(ids),
            sampling=ONE_TOKEN,
            return_logprob=True,
            token_ids_logprob=tuple(dict.fromkeys(labels)),
            namespace=namespace(asked.cache_salt, asked.extra_key),
            tenant=asked.tenant,
            priority=asked.priority,
            timeout=asked.timeout,
        )
        for i, ids in enumerate(prompts)
    ]
    usage = Usage([len(ids) for ids in prompts])
    found = []
    for (piece,) in await face.generation.collect(asks):
        usage.see(piece)
        if not piece.logprobs:
            message = piece.finish.message if piece.finish and piece.finish.message else "It was aborted."
            raise RequestError(f"The model gave no scores: {message}", status=503, code="aborted")
        by_id = {token: logprob for logprob, token in piece.logprobs[0].ids}
        found.append([by_id[label] for label in labels])
    return found, usage


def softmax(logprobs: Sequence[float]) -> list[float]:
    """Shares of the labels among themselves. Where all are impossible, equal ones."""
    most = max(logprobs)
    if most == -math.inf:
        return [1 / len(logprobs)] * len(logprobs)
    weights = [math.exp(value - most) for value in logprobs]
    return [weight / sum(weights) for weight in weights]
