"""What OpenAI's Responses API sends, for the API's document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sglcore.contracts.routes import RouteDoc
from sglcore.server.openapi_openai import TokenLogprob
from sglcore.server.openapi_shapes import ASKING, EVENTS, JSON, Answer, fetched, posted

RESPONSES = "OpenAI responses"  # the tag

EXAMPLE = {"input": "Hello", "max_output_tokens": 4}

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputText(Answer, kw_only=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class ReasoningText(Answer, kw_only=True, tag_field="type", tag="reasoning_text"):
    text: str


class MessageItem(Answer, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningItem(Answer, kw_only=True, tag_field="type", tag="reasoning"):
    id: str
    status: Status
    summary: list[Any]
    content: list[ReasoningText]
    encrypted_content: str | None


class FunctionCallItem(Answer, kw_only=True, tag_field="type", tag="function_call"):
    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


class ResponseError(Answer, kw_only=True):
    code: str
    message: str


class Incomplete(Answer, kw_only=True):
    reason: str


class InputDetails(Answer, kw_only=True):
    cached_tokens: int


class OutputDetails(Answer, kw_only=True):
    reasoning_tokens: int


class ResponseUsage(Answer, kw_only=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Effort(Answer, kw_only=True):
    effort: str | None
    summary: str | None


class ResponseBody(Answer, kw_only=True):
    """A response as it stands."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    background: bool
    error: ResponseError | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[MessageItem | ReasoningItem | FunctionCallItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: Effort
    safety_identifier: str | None
    service_tier: str
    store: bool
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    truncation: str
    usage: ResponseUsage | None
    user: str | None
    temperature: float
    top_p: float
    warnings: list[dict[str, Any]] | UnsetType = UNSET


class ResponseEvent(Struct, kw_only=True):
    """One event of the stream, with what its type brings; `event:` names the type as well."""

    type: str
    sequence_number: int
    response: ResponseBody | UnsetType = UNSET


class ResponseErrorEvent(Answer, kw_only=True, tag_field="type", tag="error"):
    """What went wrong outside of a response."""

    code: str | None
    message: str
    param: str | None


class Deleted(Answer, kw_only=True):
    id: str
    object: Literal["response"]
    deleted: bool


class Items(Answer, kw_only=True):
    """One page of the input items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Counted(Answer, kw_only=True):
    object: Literal["response.input_tokens"]
    input_tokens: int


class PageQuery(Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | UnsetType = UNSET


def create(body: Any) -> RouteDoc:
    """Of POST /v1/responses; `body`: its fields."""
    content = {JSON: ResponseBody, EVENTS: (ResponseErrorEvent, ResponseEvent)}
    return RouteDoc(
        summary="Make a response", tag=RESPONSES, body=body, example=EXAMPLE, answers={200: content}, refusals=ASKING
    )


def count(body: Any) -> RouteDoc:
    """Of POST /v1/responses/input_tokens."""
    return posted(
        RESPONSES, "Count the input tokens of a response", body, Counted, example={"input": "Hello"}, refusals=ASKING
    )


RETRIEVE = fetched(RESPONSES, "A response that is kept", ResponseBody, refusals=(400,))
DELETE = fetched(RESPONSES, "Forget a response", Deleted)
CANCEL = fetched(RESPONSES, "End a response that is worked on in the background", ResponseBody, refusals=(400,))
ITEMS = fetched(RESPONSES, "The input items of a response that is kept", Items, query=PageQuery)
