"""What the API's document says of the routes. The Structs describe; bodies are read and written elsewhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sglcore.contracts.routes import RouteDoc
from sglcore.request import INT32_MAX

TAG = "Anthropic"
HELLO = [{"role": "user", "content": "Hello"}]


class MessagesBody(Struct, kw_only=True):
    """Body of /v1/messages. Content is a text or a list of blocks, as Anthropic's API has them."""

    max_tokens: Annotated[int, Meta(ge=1, le=INT32_MAX)]
    messages: list[dict[str, Any]]
    model: str | UnsetType = UNSET
    system: str | list[dict[str, Any]] | UnsetType = UNSET
    stop_sequences: list[str] | UnsetType = UNSET
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    top_p: Annotated[float, Meta(gt=0, le=1)] | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=-1, le=INT32_MAX)] | UnsetType = UNSET
    thinking: dict[str, Any] | UnsetType = UNSET
    tools: list[dict[str, Any]] | UnsetType = UNSET
    tool_choice: dict[str, Any] | UnsetType = UNSET
    output_config: dict[str, Any] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class CountBody(Struct, kw_only=True):
    """Body of /v1/messages/count_tokens."""

    messages: list[dict[str, Any]]
    model: str | UnsetType = UNSET
    system: str | list[dict[str, Any]] | UnsetType = UNSET
    thinking: dict[str, Any] | UnsetType = UNSET
    tools: list[dict[str, Any]] | UnsetType = UNSET
    tool_choice: dict[str, Any] | UnsetType = UNSET


class Text(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    text: str


class Thinking(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class ToolUse(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class Tokens(Struct, kw_only=True, forbid_unknown_fields=True):
    """Those of the prompt that the prefix cache had are told apart from the rest."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="message"):
    """The answer."""

    id: str
    role: Literal["assistant"]
    model: str
    content: list[Text | Thinking | ToolUse]
    stop_reason: Literal["end_turn", "max_tokens", "tool_use", "stop_sequence"] | None
    stop_sequence: str | None
    usage: Tokens
    warnings: list[dict[str, Any]] | UnsetType = UNSET


class MessageEvent(Struct, kw_only=True):
    """One event of the stream, with what its type brings; `event:` names the type as well."""

    type: Literal[
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]
    message: AnthropicMessage | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: Text | Thinking | ToolUse | UnsetType = UNSET
    delta: dict[str, Any] | UnsetType = UNSET
    usage: Tokens | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET


class ErrorBody(Struct, kw_only=True, forbid_unknown_fields=True):
    type: str
    message: str


class AnthropicError(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="error"):
    """An error as Anthropic writes it; the header `request-id` has the id as well."""

    error: ErrorBody
    request_id: str


class Count(Struct, kw_only=True, forbid_unknown_fields=True):
    input_tokens: int


MESSAGES = RouteDoc(
    summary="Answer messages",
    tag=TAG,
    body=MessagesBody,
    example={"messages": HELLO, "max_tokens": 4},
    answers={200: {"application/json": AnthropicMessage, "text/event-stream": MessageEvent}},
    refusals=(404, 429, 503, 504),
    error=AnthropicError,
)
COUNT_TOKENS = RouteDoc(
    summary="Count the tokens of messages",
    tag=TAG,
    body=CountBody,
    example={"messages": HELLO},
    answers={200: {"application/json": Count}},
    refusals=(404,),
    error=AnthropicError,
)
