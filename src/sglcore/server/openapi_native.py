"""What SGLang's dialect sends, for the API's document."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from sglcore.server.openapi_shapes import Answer

SGLANG = "SGLang"  # the tag

GENERATE = {"text": "Once upon a time", "sampling_params": {"max_new_tokens": 4, "temperature": 0}}

Triple = tuple[float | None, int, str | None]  # logprob, token id, its text where it was asked for
Triples = list[list[Triple] | None]


class Finish(Answer, kw_only=True):
    """Why a branch ended: stop has `matched`, length has `length`, what was aborted says why."""

    type: str
    matched: int | str | UnsetType | None = UNSET
    length: int | UnsetType = UNSET
    message: str | UnsetType = UNSET
    status_code: int | UnsetType | None = UNSET


class MetaInfo(Answer, kw_only=True):
    """Counts in tokens, times in seconds."""

    id: str
    finish_reason: Finish | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cache_miss_reason: str | None
    weight_version: str
    e2e_latency: float
    input_token_logprobs: list[Triple] | UnsetType = UNSET
    output_token_logprobs: list[Triple] | UnsetType = UNSET
    input_top_logprobs: Triples | UnsetType = UNSET
    output_top_logprobs: Triples | UnsetType = UNSET
    input_token_ids_logprobs: Triples | UnsetType = UNSET
    output_token_ids_logprobs: Triples | UnsetType = UNSET
    hidden_states: list[Any] | UnsetType = UNSET


class Generated(Answer, kw_only=True):
    """What one branch has given. In a stream of several, `index` tells which it is."""

    output_ids: list[int]
    meta_info: MetaInfo
    text: str | UnsetType = UNSET
    index: int | UnsetType = UNSET


class Tokenized(Answer, kw_only=True):
    """One list and count, or one for each prompt."""

    tokens: list[int | list[int]]
    count: int | list[int]
    max_model_len: int


class Detokenized(Answer, kw_only=True):
    text: str | list[str]


class ParsedCall(Answer, kw_only=True):
    """`parameters` is JSON as the model wrote it."""

    tool_index: int
    name: str
    parameters: str


class ParsedCalls(Answer, kw_only=True):
    normal_text: str
    calls: list[ParsedCall]
    warnings: list[dict[str, Any]] | UnsetType = UNSET


class SeparateThoughts(Answer, kw_only=True):
    reasoning_text: str
    text: str
    warnings: list[dict[str, Any]] | UnsetType = UNSET
