"""SGLang's own dialect: POST /generate."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.engine.sampling import NativeSampling
from sglcore.errors import RequestError
from sglcore.native.asks import NativeAsks, request_ids
from sglcore.server import absent
from sglcore.server.body import read_ask
from sglcore.server.disconnect import while_connected
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.generation import new_rid
from sglcore.server.native_answer import NativeAnswer
from sglcore.server.openapi_native import GENERATE, SGLANG, Generated
from sglcore.server.openapi_shapes import ASKING, posted
from sglcore.server.prompts import is_batch
from sglcore.server.schemas import NativeFields, convert
from sglcore.server.sse import EventStream


def native_routes(face: Face) -> list[RouteEntry]:
    async def generate(request: Request) -> Response:
        fields = await read_ask(request)
        absent.check_fields(fields, NativeFields.__struct_fields__, absent.NATIVE, face.metrics)
        answer = await prepare(face, convert(fields, NativeFields))
        if answer.fields.stream:
            return EventStream(answer.events())
        return json_response(await while_connected(request.receive, answer.whole()))

    whole = (Generated, list[Generated])
    doc = posted(SGLANG, "Generate", NativeFields, whole, event=Generated, example=GENERATE, refusals=ASKING)
    return [RouteEntry("/generate", generate, ("POST", "PUT"), "user", doc=doc)]


async def prepare(face: Face, fields: NativeFields) -> NativeAnswer:
    """Check everything and spread lists over the prompts. Raises RequestError."""
    continues = fields.session_params is not None and fields.session_params.rid is not None
    prompts, single = await prompt_ids(face, fields.text, fields.input_ids, continues=continues)
    rids = request_ids(fields.rid, len(prompts), single, new_rid)
    asks = _asks(face).of(fields, prompts, rids, "input_ids" if fields.text is None else "text")
    return NativeAnswer(face, fields, asks, single and asks[0].n == 1)


def _asks(face: Face) -> NativeAsks:
    def look(params: dict[str, Any], prefix: str) -> None:
        absent.check_fields(params, NativeSampling.__struct_fields__, absent.NATIVE_SAMPLING, face.metrics, prefix)

    def need_text() -> object:
        return face.prompts.text

    return NativeAsks(face.prompts, face.model.sampling_defaults, face.check_processor, look, need_text)


async def prompt_ids(
    face: Face, text: str | list[str] | None, input_ids: list[Any] | None, *, continues: bool = False
) -> tuple[list[list[int]], bool]:
    """Ids of each prompt, and whether the request was a single one. Raises RequestError.

    continues: a text that goes on from an earlier one gets no special tokens in front.
    """
    if (text is None) == (input_ids is None):
        raise RequestError("Give either `text` or `input_ids`, not both and not neither.", param="text")
    if isinstance(text, str):
        return [await face.prompts.encode(text, "text", add_special_tokens=not continues)], True
    if text is not None:
        return await face.prompts.ids_of(text, "text"), False
    ids = input_ids or []
    if not is_batch(ids):
        return [face.prompts.check_ids(ids, "input_ids")], True
    return await face.prompts.ids_of(ids, "input_ids"), False
