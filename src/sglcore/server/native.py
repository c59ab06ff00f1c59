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

    return [RouteEntry("/generate", generate, ("POST", "PUT"), "user")]


async def prepare(face: Face, fields: NativeFields) -> NativeAnswer:
    """Check everything and spread lists over the prompts. Raises RequestError."""
    prompts, single = await _prompts(face, fields)
    rids = request_ids(fields.rid, len(prompts), single, new_rid)
    asks = _asks(face).of(fields, prompts, rids, "input_ids" if fields.text is None else "text")
    return NativeAnswer(face, fields, asks, single and asks[0].n == 1)


def _asks(face: Face) -> NativeAsks:
    def look(params: dict[str, Any], prefix: str) -> None:
        absent.check_fields(params, NativeSampling.__struct_fields__, absent.NATIVE_SAMPLING, face.metrics, prefix)

    def need_text() -> object:
        return face.prompts.text

    return NativeAsks(face.prompts, face.model.sampling_defaults, face.check_processor, look, need_text)


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
