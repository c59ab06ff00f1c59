"""POST /v1/rerank, by a causal model that was trained to answer yes or no to "does this document suit that query".

Which models do is told by their chat template (Qwen3-Reranker's says that the answer can only be "yes" or "no"). It is
rendered with two messages, of the roles `query` and `document`, and the variable `instruct`; a document's score is the
share of "yes" among the two as the next token.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.errors import RequestError
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openai import check_model
from sglcore.server.openapi_openai import OPENAI, Ranked
from sglcore.server.openapi_shapes import ASKING, posted
from sglcore.server.prompts import check_joined
from sglcore.server.schemas import MAX_PROMPTS, convert
from sglcore.server.scoring import JudgeFields, next_logprobs, softmax

YES_OR_NO = re.compile(r"""only be\s+\\?["']yes\\?["']\s+or\s+\\?["']no\\?["']""", re.IGNORECASE)
ANSWERS = ("yes", "no")


class RerankFields(JudgeFields, kw_only=True):
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str], Meta(min_length=1, max_length=MAX_PROMPTS)]
    instruct: str | None = None
    top_n: Annotated[int, Meta(ge=1, le=MAX_PROMPTS)] | None = None
    return_documents: bool = True


def rerank_routes(face: Face) -> list[RouteEntry]:
    async def rerank(request: Request) -> Response:
        fields = await read_ask(request)
        absent.check_fields(fields, RerankFields.__struct_fields__, {}, face.metrics)
        asked = convert(fields, RerankFields)
        check_model(face.model, asked.model)
        _check_judge(face)
        return json_response(await while_connected(request.receive, _ranked(face, asked)))

    doc = posted(OPENAI, "Order documents by how well they suit a query", RerankFields, list[Ranked], refusals=ASKING)
    return [RouteEntry("/v1/rerank", rerank, ("POST",), "user", doc=doc)]


def is_judge(template: str | None) -> bool:
    """Whether a chat template asks for yes or no alone, about a document."""
    return template is not None and bool(YES_OR_NO.search(template)) and "document" in template.lower()


def _check_judge(face: Face) -> None:
    if is_judge(getattr(face.prompts.text, "chat_template", None)):
        return
    raise RequestError(
        f"This model ({_kind(face)}) is no reranker: it has no score head, and its chat template does not ask for "
        "yes or no.",
        param="model",
        code="wrong_model_kind",
        remedy="Serve a reranker such as Qwen3-Reranker, or give its template with --chat-template.",
    )


def _kind(face: Face) -> str:
    return ", ".join(face.model.architectures) or "of unknown architecture"


async def _ranked(face: Face, asked: RerankFields) -> list[dict[str, Any]]:
    check_joined(asked.query, asked.documents, "documents")
    labels = [_single(face, answer) for answer in ANSWERS]
    prompts = [await _prompt(face, asked, document, i) for i, document in enumerate(asked.documents)]
    found, _ = await next_logprobs(face, asked, prompts, labels, "documents")
    scores = [softmax(row)[0] for row in found]
    rows: list[dict[str, Any]] = [
        {"index": i, "score": score}
        | ({"document": asked.documents[i]} if asked.return_documents else {})
        | {"meta_info": {"prompt_tokens": len(prompts[i])}}
        for i, score in enumerate(scores)
    ]
    return sorted(rows, key=lambda row: -scores[row["index"]])[: asked.top_n]


async def _prompt(face: Face, asked: RerankFields, document: str, index: int) -> list[int]:
    messages = [{"role": "query", "content": asked.query}, {"role": "document", "content": document}]
    given = {"instruct": asked.instruct, "instruction": asked.instruct, "query": asked.query, "document": document}
    allowed = face.prompts.text.template_variables
    arguments = {name: value for name, value in given.items() if name in allowed and value is not None}
    try:
        _, ids = await face.prompts.render(messages, arguments)
    except RequestError as error:
        raise RequestError(str(error), param=f"documents[{index}]", code=error.code) from None
    return ids


def _single(face: Face, word: str) -> int:
    ids = face.prompts.text.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        raise RequestError(f"This model has no single token for {word!r}.", param="model", code="wrong_model_kind")
    return ids[0]
