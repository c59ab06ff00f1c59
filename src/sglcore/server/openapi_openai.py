"""What OpenAI's dialect sends, for the API's document; SGLang's fields beside OpenAI's."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from sglcore.server.openapi_native import MetaInfo
from sglcore.server.openapi_shapes import Answer

OPENAI = "OpenAI"  # the tag

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
ONCE = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
SCORE = {"query": "Is it one or two? ", "items": ["One.", "Two."], "label_token_ids": [1, 2]}

Bytes = list[int]


class CachedDetails(Answer, kw_only=True):
    device: int
    host: int


class PromptDetails(Answer, kw_only=True):
    cached_tokens: int
    cached_tokens_details: CachedDetails | UnsetType = UNSET


class CompletionDetails(Answer, kw_only=True):
    reasoning_tokens: int


class Usage(Answer, kw_only=True):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | UnsetType = UNSET
    reasoning_tokens: int | UnsetType = UNSET


class TopLogprob(Answer, kw_only=True):
    token: str
    logprob: float | None
    bytes: Bytes


class TokenLogprob(TopLogprob, kw_only=True):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer, kw_only=True):
    content: list[TokenLogprob]


class CalledFunction(Answer, kw_only=True):
    name: str
    arguments: str


class ToolCall(Answer, kw_only=True):
    index: int
    id: str
    type: Literal["function"]
    function: CalledFunction


class CalledFunctionDelta(Answer, kw_only=True):
    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(Answer, kw_only=True):
    index: int
    function: CalledFunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatMessage(Answer, kw_only=True):
    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] | None
    reasoning_content: str | None


class ChatDelta(Answer, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class Choice(Answer, kw_only=True):
    """What choices of all kinds have; of a stream's, all but the last have no finish_reason."""

    index: int
    finish_reason: str | None
    matched_stop: int | str | None
    token_ids: list[int] | UnsetType = UNSET
    meta_info: MetaInfo | UnsetType = UNSET
    hidden_states: list[Any] | UnsetType = UNSET


class ChatChoice(Choice, kw_only=True):
    message: ChatMessage
    logprobs: ChatLogprobs | None


class ChatChunkChoice(Choice, kw_only=True):
    delta: ChatDelta
    logprobs: ChatLogprobs | None


class Weights(Answer, kw_only=True):
    weight_version: str


class Envelope(Answer, kw_only=True):
    id: str
    created: int
    model: str
    service_tier: str | UnsetType = UNSET


class ChatCompletion(Envelope, kw_only=True):
    """The answer of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    metadata: Weights
    prompt_token_ids: list[int] | UnsetType = UNSET
    warnings: list[dict[str, Any]] | UnsetType = UNSET


class ChatChunk(Envelope, kw_only=True):
    """One event of its stream; `data: [DONE]` follows the last."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    warnings: list[dict[str, Any]] | UnsetType = UNSET


class CompletionLogprobs(Answer, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None
    text_offset: list[int]


class CompletionChoice(Choice, kw_only=True):
    text: str
    logprobs: CompletionLogprobs | None
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(Envelope, kw_only=True):
    """The answer of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage
    metadata: Weights


class CompletionChunk(Envelope, kw_only=True):
    """One event of its stream; `data: [DONE]` follows the last."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


class ModelCard(Answer, kw_only=True):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(Answer, kw_only=True):
    object: Literal["list"]
    data: list[ModelCard]


class Scores(Answer, kw_only=True):
    """One list for each item, in the labels' order."""

    object: Literal["scoring"]
    scores: list[list[float]]
    model: str
    usage: Usage


class RankMeta(Answer, kw_only=True):
    prompt_tokens: int


class Ranked(Answer, kw_only=True):
    index: int
    score: float
    meta_info: RankMeta
    document: str | UnsetType = UNSET
