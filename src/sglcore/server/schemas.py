"""The request fields that are read, with their types and bounds. Everything else is refused or counted as ignored.

Null means absent: top-level nulls are dropped before conversion. Numbers are bounded, so that nothing that reaches
the engine can overflow an array.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from sglcore.engine.sampling import LogprobIds, ProcessorName, SamplingFields, Seed, Tokens, TopLogprobs
from sglcore.engine.sampling import convert as convert
from sglcore.native.fields import AskFields, Priority, Rid, Salt, SessionFields, SessionId, Timeout
from sglcore.request import INT32_MAX

MAX_PROMPTS = 1024
MAX_TOOLS = 1024
MAX_MESSAGES = 16384
MAX_LABELS = 64

Label = Annotated[str, Meta(max_length=256)]

Patience = Annotated[float, Meta(ge=0, le=3600)]


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class OpenAIFields(SamplingFields, kw_only=True):
    """What chat and plain completions share."""

    model: Annotated[str, Meta(max_length=4096)] | None = None
    max_tokens: Tokens | None = None
    min_tokens: Tokens | None = None
    custom_logit_processor: ProcessorName | None = None
    seed: Seed | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    rid: Rid | None = None
    cache_salt: Salt = ""
    extra_key: Salt = ""
    tenant: Salt = ""
    priority: Priority | None = None
    timeout: Timeout | None = None
    session_params: SessionFields | None = None
    token_ids_logprob: LogprobIds | None = None
    return_hidden_states: bool = False
    return_token_ids: bool = False
    return_prompt_token_ids: bool = False
    return_meta_info: bool = False
    return_cached_tokens_details: bool = False
    service_tier: Annotated[str, Meta(max_length=64)] | None = None


class ChatFields(OpenAIFields, kw_only=True):
    messages: Annotated[list[dict[str, Any]], Meta(max_length=MAX_MESSAGES)]
    input_ids: list[Any] | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None
    chat_template_kwargs: dict[str, Any] = {}
    reasoning_effort: Annotated[str, Meta(max_length=64)] | None = None
    thinking: bool | dict[str, Any] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool = True
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    separate_reasoning: bool = True
    stream_reasoning: bool = True


class CompletionFields(OpenAIFields, kw_only=True):
    prompt: str | list[Any]
    suffix: str = ""
    echo: bool = False
    logprobs: TopLogprobs | None = None


class NativeFields(AskFields, kw_only=True):
    """Body of /generate."""

    text: str | Annotated[list[str], Meta(max_length=MAX_PROMPTS)] | None = None
    input_ids: list[Any] | None = None
    return_text_in_logprobs: bool = False
    custom_labels: Annotated[dict[Label, Label], Meta(max_length=MAX_LABELS)] | None = None
    log_metrics: bool = True
    no_logs: bool = False
    routing_key: Salt | None = None
    conversation_id: Salt | None = None
    stream: bool = False


class TokenizeFields(Struct, kw_only=True):
    prompt: str | Annotated[list[str], Meta(max_length=MAX_PROMPTS)]
    model: str | None = None
    add_special_tokens: bool = True


class DetokenizeFields(Struct, kw_only=True):
    tokens: list[Any]
    model: str | None = None
    skip_special_tokens: bool = True


class AbortFields(Struct, kw_only=True):
    rid: Annotated[str, Meta(max_length=256)] = ""
    abort_all: bool = False
    abort_message: Annotated[str, Meta(max_length=1024)] = ""


class FlushFields(Struct, kw_only=True):
    timeout: Patience = 0.0


class PauseFields(Struct, kw_only=True):
    mode: Literal["abort", "retract", "in_place"] = "abort"


class OpenSessionFields(Struct, kw_only=True):
    capacity_of_str_len: Annotated[int, Meta(ge=0, le=INT32_MAX)] = 0
    session_id: SessionId | None = None


class CloseSessionFields(Struct, kw_only=True):
    session_id: SessionId
