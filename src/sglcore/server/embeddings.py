"""POST /v1/embeddings: its fields are checked; the model served here gives no embeddings, which the answer says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteDoc, RouteEntry
from sglcore.errors import RequestError
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.face import Face
from sglcore.server.openai import check_model
from sglcore.server.openapi_openai import OPENAI
from sglcore.server.prompts import is_batch
from sglcore.server.schemas import MAX_PROMPTS, convert


class EmbeddingFields(msgspec.Struct, kw_only=True):
    input: str | list[Any]
    model: Annotated[str, Meta(max_length=4096)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    rid: str | list[str] | None = None
    priority: int | None = None
    tenant: str = ""


def embedding_routes(face: Face) -> list[RouteEntry]:
    async def embeddings(request: Request) -> Response:
        fields = await read_ask(request)
        absent.check_fields(fields, EmbeddingFields.__struct_fields__, {}, face.metrics)
        asked = convert(fields, EmbeddingFields)
        check_model(face.model, asked.model)
        check_input(face, asked.input)
        raise wrong_kind(face, "an embedding model", "models (embedding)")

    summary = "Embed texts, which needs an embedding model"
    doc = RouteDoc(summary=summary, tag=OPENAI, body=EmbeddingFields, answers={}, refusals=(404,))
    return [RouteEntry("/v1/embeddings", embeddings, ("POST",), "user", doc=doc)]


def check_input(face: Face, given: str | list[Any]) -> None:
    """A text, token ids, or a list of either. Raises RequestError."""
    if isinstance(given, str):
        given = [given]
    elif not is_batch(given):
        face.prompts.check_ids(given, "input")
        return
    if len(given) > MAX_PROMPTS:
        raise RequestError(f"`input` holds {len(given)} texts; 1 to {MAX_PROMPTS} are taken.", param="input")
    for i, one in enumerate(given):
        if isinstance(one, list):
            face.prompts.check_ids(one, f"input[{i}]")
        elif not isinstance(one, str) or not one:
            raise RequestError(f"`input[{i}]` must be a text that is not empty, or token ids.", param=f"input[{i}]")


def wrong_kind(face: Face, wanted: str, family: str) -> RequestError:
    """The refusal of an endpoint that another kind of model answers."""
    kind = ", ".join(face.model.architectures) or "a language model"
    return RequestError(
        f"{face.model.name!r} ({kind}) generates text; it is not {wanted}.",
        param="model",
        code="wrong_model_kind",
        remedy=f"Serve {wanted} here; see plugin family `{family}`.",
    )
