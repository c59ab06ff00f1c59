"""The words of the API's document: shapes and the schemas they become, and what all dialects share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sglcore.contracts.routes import RouteDoc

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
TEXT = "text/plain"
DONE = {"const": "[DONE]"}  # the last event of OpenAI's streams, which is no JSON
ASKING = (400, 404, 429, 503, 504)  # how a request that generates may be refused
REF = "#/components/schemas/{name}"


class Answer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an endpoint sends. It describes; it is never built. Fields that are not always there are UNSET."""


class OpenAIErrorBody(Answer, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Answer, kw_only=True):
    """An error as OpenAI writes it."""

    error: OpenAIErrorBody


class Shapes:
    """Schemas of shapes (see RouteDoc); those of Structs are named components."""

    def __init__(self, shapes: Sequence[Any]) -> None:
        kinds = [kind for shape in shapes for kind in _kinds(shape)]
        schemas, self.components = msgspec.json.schema_components(kinds, ref_template=REF)
        self._schemas = {id(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
        self._kinds = kinds  # kept alive: they are known by their ids

    def schema(self, shape: Any) -> dict[str, Any]:
        """The JSON schema of a shape that was given at the start."""
        if isinstance(shape, tuple):
            return {"anyOf": [self.schema(one) for one in shape]}
        return shape if isinstance(shape, dict) else self._schemas[id(shape)]

    def name(self, struct: Any) -> str:
        """The component that a Struct became."""
        return str(self.schema(struct)["$ref"].rpartition("/")[2])


def _kinds(shape: Any) -> list[Any]:
    if isinstance(shape, tuple):
        return [kind for one in shape for kind in _kinds(one)]
    return [] if isinstance(shape, dict) else [shape]


def posted(
    tag: str,
    summary: str,
    body: Any,
    answer: Any,
    *,
    event: Any = None,
    example: Any = None,
    refusals: tuple[int, ...] = (400,),
) -> RouteDoc:
    """Of a route that takes a JSON body and answers with a JSON body, or with events where it is asked to stream."""
    content = ({JSON: answer} if answer is not None else {}) | ({EVENTS: (event, OpenAIError, DONE)} if event else {})
    return RouteDoc(
        summary=summary,
        tag=tag,
        body=body,
        example=example,
        answers={200: content},
        refusals=refusals,
    )


def fetched(tag: str, summary: str, answer: Any, *, refusals: tuple[int, ...] = (), query: Any = None) -> RouteDoc:
    """Of a route without a body that answers with a JSON body."""
    return RouteDoc(summary=summary, tag=tag, query=query, answers={200: {JSON: answer}}, refusals=refusals)
