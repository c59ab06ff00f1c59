"""What `/generate` and `Engine.generate` take beside the prompt, with types and bounds. Null means absent."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from sglcore.engine.sampling import Id, ProcessorName, TopLogprobs
from sglcore.request import INT32_MAX

Rid = Annotated[str, Meta(min_length=1, max_length=256)]
Salt = Annotated[str, Meta(max_length=256)]
Priority = Annotated[int, Meta(ge=-(2**31), le=INT32_MAX)]
Timeout = Annotated[float, Meta(gt=0, le=1e9)]
SessionId = Annotated[str, Meta(min_length=1, max_length=256)]


class SessionFields(Struct, kw_only=True):
    """`session_params` of a request."""

    id: SessionId
    rid: Rid | None = None
    offset: Annotated[int, Meta(ge=-INT32_MAX, le=INT32_MAX)] | None = None
    replace: bool | None = None
    drop_previous_output: bool | None = None


class AskFields(Struct, kw_only=True):
    """Lists beside a list of prompts hold one value each."""

    sampling_params: dict[str, Any] | list[dict[str, Any]] = {}
    rid: Rid | list[Rid] | None = None
    return_logprob: bool | list[bool] = False
    logprob_start_len: int | list[int] = -1
    top_logprobs_num: TopLogprobs | list[TopLogprobs] = 0
    token_ids_logprob: list[Id | list[Id] | None] | None = None
    return_hidden_states: bool | list[bool] = False
    custom_logit_processor: ProcessorName | list[ProcessorName | None] | None = None
    cache_salt: Salt = ""
    extra_key: Salt = ""
    tenant: Salt = ""
    priority: Priority | None = None
    timeout: Timeout | None = None
    session_params: SessionFields | None = None
