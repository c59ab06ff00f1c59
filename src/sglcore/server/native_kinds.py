"""POST /encode and /classify: their fields are checked; the model served here generates, which the answer says."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteDoc, RouteEntry
from sglcore.errors import RequestError
from sglcore.native.fields import Priority, Rid, Salt
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.embeddings import wrong_kind
from sglcore.server.face import Face
from sglcore.server.native import prompt_ids
from sglcore.server.openapi_native import SGLANG
from sglcore.server.schemas import MAX_PROMPTS, convert

KINDS = (
    ("/encode", "an embedding model", "models (embedding)"),
    ("/classify", "a reward or classification model", "models (classification)"),
)


class EncodeFields(Struct, kw_only=True):
    """Body of both."""

    text: str | Annotated[list[str], Meta(max_length=MAX_PROMPTS)] | None = None
    input_ids: list[Any] | None = None
    rid: Rid | list[Rid] | None = None
    priority: Priority | None = None
    tenant: Salt = ""
    dimensions: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None


def kind_routes(face: Face) -> list[RouteEntry]:
    return [_route(face, path, wanted, family) for path, wanted, family in KINDS]


def _route(face: Face, path: str, wanted: str, family: str) -> RouteEntry:
    async def endpoint(request: Request) -> Response:
        fields = await read_ask(request)
        absent.check_fields(fields, EncodeFields.__struct_fields__, absent.NATIVE, face.metrics)
        asked = convert(fields, EncodeFields)
        prompts, _ = await prompt_ids(face, asked.text, asked.input_ids)
        if isinstance(asked.rid, list) and len(asked.rid) != len(prompts):
            raise RequestError(f"`rid` has {len(asked.rid)} entries for {len(prompts)} prompts.", param="rid")
        raise wrong_kind(face, wanted, family)

    summary = f"Of texts what they are to {wanted}"
    doc = RouteDoc(summary=summary, tag=SGLANG, body=EncodeFields, answers={})
    return RouteEntry(path, endpoint, ("POST", "PUT"), "user", doc=doc)
