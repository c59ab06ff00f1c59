"""POST /tokenize and /detokenize, also under /v1."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import RequestError
from sglcore.server import absent
from sglcore.server.body import read_json
from sglcore.server.chat import PROMPT_FIELDS, prompt_ids
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openai import check_model
from sglcore.server.openapi_native import SGLANG, Detokenized, Tokenized
from sglcore.server.openapi_shapes import posted
from sglcore.server.prompts import is_batch
from sglcore.server.schemas import MAX_PROMPTS, ChatFields, DetokenizeFields, TokenizeFields, convert


def tokenization_routes(face: Face) -> list[RouteEntry]:
    async def tokenize(request: Request) -> Response:
        fields = await read_json(request)
        lists, single = await (_chat(face, fields) if "messages" in fields else _texts(face, fields))
        counts = [len(ids) for ids in lists]
        tokens, count = (lists[0], counts[0]) if single else (lists, counts)
        return json_response({"tokens": tokens, "count": count, "max_model_len": face.model.context_length})

    async def detokenize(request: Request) -> Response:
        return json_response(_detokenize(face, await read_json(request)))

    doc = posted(
        SGLANG,
        "Tokens of texts, or of a chat",
        (TokenizeFields, ChatFields),
        Tokenized,
        example={"prompt": "Hello"},
        refusals=(404,),
    )
    back = posted(SGLANG, "Text of tokens", DetokenizeFields, Detokenized, example={"tokens": [1, 2]}, refusals=(404,))
    told = (("tokenize", tokenize, doc), ("detokenize", detokenize, back))
    return [
        RouteEntry(f"{at}/{name}", call, ("POST",), "user", doc=doc) for name, call, doc in told for at in ("", "/v1")
    ]


async def _texts(face: Face, fields: dict[str, Any]) -> tuple[list[list[int]], bool]:
    """Ids of each prompt, and whether there is one alone."""
    absent.check_fields(fields, TokenizeFields.__struct_fields__, {}, face.metrics)
    asked = convert(fields, TokenizeFields)
    check_model(face.model, asked.model)
    texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    return (
        await face.prompts.encode_all(texts, add_special_tokens=asked.add_special_tokens),
        isinstance(asked.prompt, str),
    )


async def _chat(face: Face, fields: dict[str, Any]) -> tuple[list[list[int]], bool]:
    """Ids of the prompt that the chat template makes of messages and tools."""
    if "prompt" in fields:
        raise RequestError("Give either `prompt` or `messages`, not both.", param="messages")
    absent.check_fields(fields, PROMPT_FIELDS, {}, face.metrics)
    return [await prompt_ids(face, fields)], True


def _detokenize(face: Face, fields: dict[str, Any]) -> dict[str, Any]:
    absent.check_fields(fields, DetokenizeFields.__struct_fields__, {}, face.metrics)
    asked = convert(fields, DetokenizeFields)
    check_model(face.model, asked.model)
    decode, skip = face.prompts.text.decode, asked.skip_special_tokens
    if not is_batch(asked.tokens):
        ids = face.prompts.check_ids(asked.tokens, "tokens") if asked.tokens else []
        return {"text": decode(ids, skip_special_tokens=skip)}
    if len(asked.tokens) > MAX_PROMPTS:
        raise RequestError(f"`tokens` holds {len(asked.tokens)} lists, more than {MAX_PROMPTS}.", param="tokens")
    lists = [face.prompts.check_ids(ids, f"tokens[{i}]") for i, ids in enumerate(asked.tokens)]
    return {"text": [decode(ids, skip_special_tokens=skip) for ids in lists]}
