"""POST /parse_function_call and /separate_reasoning: parsing without generating."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.server.body import read_json
from sglcore.server.branch_parser import tools_of
from sglcore.server.chat_tools import checked_function
from sglcore.server.errors import json_response
from sglcore.server.face import Face
from sglcore.server.openapi_native import SGLANG, ParsedCalls, SeparateThoughts
from sglcore.server.openapi_shapes import posted
from sglcore.server.parse_offline import parse_calls, split_thoughts
from sglcore.server.schemas import MAX_TOOLS, convert

ParserName = Annotated[str, Meta(min_length=1, max_length=256)]


class ParseCallFields(Struct, kw_only=True):
    text: str
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] = []
    tool_call_parser: ParserName | None = None


class SeparateFields(Struct, kw_only=True):
    text: str
    reasoning_parser: ParserName | None = None


def parse_routes(face: Face) -> list[RouteEntry]:
    """Both in a thread: a text may be long, and a parser that was never used is imported."""
    parsers = face.offline_parsers

    async def parse_function_call(request: Request) -> Response:
        asked = convert(await read_json(request), ParseCallFields)
        tools = tools_of([checked_function(tool, f"tools[{i}]") for i, tool in enumerate(asked.tools)])

        def parse() -> dict[str, Any]:
            return parse_calls(
                parsers.find("tool_parsers", asked.tool_call_parser), asked.text, tools, uuid.uuid4().hex
            )

        return json_response(await asyncio.to_thread(parse))

    async def separate_reasoning(request: Request) -> Response:
        asked = convert(await read_json(request), SeparateFields)

        def parse() -> dict[str, Any]:
            return split_thoughts(parsers.find("reasoning_parsers", asked.reasoning_parser), asked.text)

        return json_response(await asyncio.to_thread(parse))

    calls = posted(SGLANG, "Tell calls from text", ParseCallFields, ParsedCalls)
    thoughts = posted(SGLANG, "Tell thoughts from text", SeparateFields, SeparateThoughts)
    return [
        RouteEntry("/parse_function_call", parse_function_call, ("POST",), "user", doc=calls),
        RouteEntry("/separate_reasoning", separate_reasoning, ("POST",), "user", doc=thoughts),
    ]
