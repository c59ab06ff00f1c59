"""POST /v1/classify: its fields are checked; the model served here is no classifier, which the answer says."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteDoc, RouteEntry
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.embeddings import check_input, wrong_kind
from sglcore.server.face import Face
from sglcore.server.openai import check_model
from sglcore.server.openapi_openai import OPENAI
from sglcore.server.schemas import convert


class ClassifyFields(msgspec.Struct, kw_only=True):
    input: str | list[Any]
    model: Annotated[str, Meta(max_length=4096)] | None = None
    rid: str | list[str] | None = None
    priority: int | None = None
    user: str | None = None
    tenant: str = ""


def classify_routes(face: Face) -> list[RouteEntry]:
    async def classify(request: Request) -> Response:
        fields = await read_ask(request)
        absent.check_fields(fields, ClassifyFields.__struct_fields__, {}, face.metrics)
        asked = convert(fields, ClassifyFields)
        check_model(face.model, asked.model)
        check_input(face, asked.input)
        raise wrong_kind(face, "a classification model", "models (classification)")

    summary = "Classify texts, which needs a classification model"
    doc = RouteDoc(summary=summary, tag=OPENAI, body=ClassifyFields, answers={}, refusals=(404,))
    return [RouteEntry("/v1/classify", classify, ("POST",), "user", doc=doc)]
